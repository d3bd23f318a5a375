"""Self-attention over the views of a group: their rows become one sequence.

Any U-Net of diffusers can be made to do so, with the weights it has. Only their
content distinguishes views, so a permutation of the views permutes the outputs.

References:
    MVDream (Shi et al. 2023, arXiv 2308.16512).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn


class _FoldedProcessor:
    """Attention processor that applies another one to groups of rows.

    Args:
        processor: the processor of the layer.
        folding: says how many rows form a group.
    """

    def __init__(self, processor: Callable[..., Tensor], folding: ViewFolding):
        self.processor, self.folding = processor, folding

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Apply attention; see ``diffusers.models.attention_processor.AttnProcessor``."""
        size, shape = self.folding.group_size, hidden_states.shape
        if size > 1:
            hidden_states = hidden_states.reshape(-1, size * shape[1], shape[2])
        out = self.processor(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return out.reshape(shape)


# as for CPUAttention: diffusers asks for the signature in every call
_FoldedProcessor.__call__.__signature__ = inspect.signature(  # type: ignore[attr-defined]
    _FoldedProcessor.__call__
)


class ViewFolding:
    """Folds the self-attention of a network over groups of rows, while a context is open.

    Outside the network is what it was, bit for bit.

    Args:
        network: a U-Net, whose attention processors are replaced.

    Attributes:
        group_size: rows that form one sequence now; 1: each row is its own.

    Raises:
        ValueError: if it has no transformer blocks with self-attention.
    """

    def __init__(self, network: nn.Module):
        self.group_size = 1
        blocks: list[Any] = [m for m in network.modules() if isinstance(m, BasicTransformerBlock)]
        layers = [block.attn1 for block in blocks if not block.only_cross_attention]
        if not layers:
            raise ValueError(
                f"{type(network).__name__} has no transformer blocks with self-attention, "
                "which several views could share"
            )
        self._layers = layers
        for layer in layers:
            layer.set_processor(_FoldedProcessor(layer.processor, self))

    def remove(self) -> None:
        """Give the network its own attention processors back."""
        for layer in self._layers:
            layer.set_processor(layer.processor.processor)

    @contextmanager
    def groups_of(self, size: int) -> Iterator[None]:
        """Let each ``size`` rows that follow each other see each other.

        Args:
            size: rows of a group, of which every call must have whole ones.
        """
        before, self.group_size = self.group_size, size
        try:
            yield
        finally:
            self.group_size = before


@contextmanager
def folded_views(
    network: nn.Module, size: int, eager: AbstractContextManager[None]
) -> Iterator[None]:
    """Let a network see each ``size`` rows together while the context is open.

    Args:
        network: a U-Net.
        size: rows of a group, of which every call must have whole ones.
        eager: context in which the layers are called one by one, not as a compiled graph.

    Raises:
        ValueError: if it has no transformer blocks with self-attention.
    """
    folding = ViewFolding(network)
    try:
        with eager, folding.groups_of(size):
            yield
    finally:
        folding.remove()
