"""Capture of the self-attention outputs of a U-Net's decoder by hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def capture_self_attention(
    unet: UNet2DConditionModel, eager: AbstractContextManager[None]
) -> Iterator[list[Float[Tensor, "r c h w"]]]:
    """Capture the self-attention outputs of the up blocks, before the residual connection.

    See ``limbeck.diffusion.prior.AttentionPrior``.

    Args:
        unet: the network.
        eager: context in which the layers are called one by one, so that hooks run.

    Yields:
        A list to which every call of the network appends one output per layer, in float32 or wider.
    """
    outputs: list[Tensor] = []
    # height and width of the layer that is running: attention itself sees a sequence
    size: list[torch.Size] = []

    def remember_size(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size[:] = [inputs[0].shape[-2:]]

    def capture(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        wide = output.to(torch.promote_types(output.dtype, torch.float32))
        outputs.append(wide.mT.unflatten(2, size[0]))

    layers = [m for m in unet.up_blocks.modules() if isinstance(m, Transformer2DModel)]
    hooks = [layer.register_forward_pre_hook(remember_size) for layer in layers]
    hooks += [
        block.attn1.register_forward_hook(capture)
        for layer in layers
        for block in layer.transformer_blocks
    ]
    try:
        with eager:
            yield outputs
    finally:
        for hook in hooks:
            hook.remove()
