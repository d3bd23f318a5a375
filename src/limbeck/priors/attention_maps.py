"""Capture of the attention probabilities of a U-Net, and the tokens that differ between prompts.

Attention runs as it does without a capture, in one fused call if it is so. Hooks keep its queries
and keys, from which the probabilities are computed at the end of a call, of the layers that are
needed only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from difflib import SequenceMatcher
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.attention_maps import AttentionMaps

_SELF_PART, _CROSS_PART = 2, 4  #: height of the latent over that of the layers


class _Layer:
    """Queries and keys of an attention layer in the current call.

    Args:
        attention: the layer.
    """

    size: tuple[int, int]
    query: Float[Tensor, "r n c"]
    key: Float[Tensor, "r l c"]

    def __init__(self, attention: Any):
        self.attention = attention

    def keep_query(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.query = output

    def keep_key(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.key = output

    def probabilities(self) -> Float[Tensor, "r n l"]:
        """Mean of the probabilities over heads, one head at a time: they are large."""
        count = self.attention.heads
        queries, keys = (x.float().chunk(count, 2) for x in (self.query, self.key))
        scores = (q @ k.mT for q, k in zip(queries, keys, strict=True))
        total = sum((s * self.attention.scale).softmax(2) for s in scores)
        assert isinstance(total, Tensor)
        return total / count

    def forget(self) -> None:
        """Free the queries and keys."""
        del self.query, self.key


def _at_part(layers: Sequence[_Layer], height: int, part: int) -> list[_Layer]:
    """The layers of the largest height up to a part of a height, or of the smallest there is."""
    heights = {layer.size[0] for layer in layers}
    chosen = max((h for h in heights if h * part <= height), default=min(heights))
    return [layer for layer in layers if layer.size[0] == chosen]


def _mean(layers: Sequence[_Layer]) -> Float[Tensor, "r n l"]:
    """Mean of the probabilities over layers."""
    total = sum(layer.probabilities() for layer in layers)
    assert isinstance(total, Tensor)
    return total / len(layers)


def _hook_layers(
    unet: UNet2DConditionModel, cross: bool
) -> tuple[list[_Layer], list[torch.utils.hooks.RemovableHandle]]:
    """Let layers of cross- or of self-attention keep their queries and keys.

    Args:
        unet: the network.
        cross: whether layers that attend to the text are meant.
    """
    layers, hooks = [], []

    def keep_size(owned: list[_Layer], transformer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[-2:]  # attention itself sees a sequence
        for layer in owned:
            layer.size = (height, width)

    for transformer in unet.modules():
        if not isinstance(transformer, Transformer2DModel):
            continue
        blocks = transformer.transformer_blocks
        found = [a for b in blocks for a in (b.attn1, b.attn2) if a is not None]
        owned = [_Layer(a) for a in found if a.is_cross_attention == cross]
        hooks.append(transformer.register_forward_pre_hook(partial(keep_size, owned)))
        for layer in owned:
            hooks.append(layer.attention.to_q.register_forward_hook(layer.keep_query))
            hooks.append(layer.attention.to_k.register_forward_hook(layer.keep_key))
        layers += owned
    return layers, hooks


@contextmanager
def capture_maps(
    unet: UNet2DConditionModel, eager: AbstractContextManager[None]
) -> Iterator[list[AttentionMaps]]:
    """Capture self-attention at half and cross-attention at a quarter of the latent's height.

    See ``limbeck.diffusion.prior.AttentionMapPrior``.

    Args:
        unet: the network.
        eager: context in which the layers are called one by one, so that hooks run.

    Yields:
        A list to which every call of the network appends its maps, in float32.

    Raises:
        ValueError: if the network has not both kinds of attention.
    """
    (own, own_hooks), (cross, cross_hooks) = (_hook_layers(unet, kind) for kind in (False, True))
    maps: list[AttentionMaps] = []

    def finish(network: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        height = inputs[0].shape[2]
        at_half, at_quarter = (
            _at_part(own, height, _SELF_PART),
            _at_part(cross, height, _CROSS_PART),
        )
        cross_mean = _mean(at_quarter).mT.unflatten(2, at_quarter[0].size)
        maps.append(AttentionMaps(_mean(at_half), at_half[0].size, cross_mean))
        for layer in (*own, *cross):
            layer.forget()

    hooks = [*own_hooks, *cross_hooks, unet.register_forward_hook(finish)]
    try:
        if not own or not cross:
            raise ValueError(f"{type(unet).__name__} has not both self- and cross-attention")
        with eager:
            yield maps
    finally:
        for hook in hooks:
            hook.remove()


def changed_positions(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """Positions of a text whose tokens are not those of another text, after both are aligned.

    Args:
        source: token ids of the other text, with those for start and end.
        target: token ids of the text.

    Returns:
        Positions in ``target`` of what replaces other tokens or is inserted; empty if the text is
        the other one, or a part of it.
    """
    edits = SequenceMatcher(None, source, target, autojunk=False).get_opcodes()
    return [i for kind, _, _, first, end in edits if kind != "equal" for i in range(first, end)]
