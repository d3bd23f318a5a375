"""What the self-attention of a U-Net's decoder answers, looked at by hooks."""

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
    unet: UNet2DConditionModel, aside: AbstractContextManager[None]
) -> Iterator[list[Float[Tensor, "r c h w"]]]:
    """See ``limbeck.diffusion.prior.AttentionPrior``: the up blocks' self-attention, before it is added to what it was asked about.

    aside: sees to it that the layers are called one by one.
    """
    seen: list[Tensor] = []
    sizes: list[torch.Size] = []  # of the layer under way: attention itself sees places in a row

    def size(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes[:] = [inputs[0].shape[-2:]]

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        seen.append(out.to(torch.promote_types(out.dtype, torch.float32)).mT.unflatten(2, sizes[0]))

    layers = [m for m in unet.up_blocks.modules() if isinstance(m, Transformer2DModel)]
    hooks = [layer.register_forward_pre_hook(size) for layer in layers]
    hooks += [
        block.attn1.register_forward_hook(look)
        for layer in layers
        for block in layer.transformer_blocks
    ]
    try:
        with aside:
            yield seen
    finally:
        for hook in hooks:
            hook.remove()
