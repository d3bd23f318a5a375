"""The one face every frozen model wears, exact or learned, and the guidance that is said once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.schedule import NoiseSchedule


@dataclass
class NetworkCallCounter:
    """Network passes so far: ``calls`` of the network, ``rows`` through it, and how many of these rows kept a graph.

    graphs: compiled so far, where the network is. warming: seconds that making them took, to be told apart from a run's own.
    """

    calls: int = 0
    rows: int = 0
    grad_rows: int = 0
    compiled_graphs: int = 0
    compile_seconds: float = 0.0

    def add(self, rows: int) -> None:
        self.calls += 1
        self.rows += rows
        self.grad_rows += rows * torch.is_grad_enabled()


@runtime_checkable
class Prior(Protocol):
    """A frozen model as one callable. Images are [0, 1] float32 NCHW outside; casts happen only inside."""

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def kind(self) -> PredictionType:
        """The parametrisation its network was trained in, and its critic is."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one x0: (channels, height, width), or (dimension,) for a plain mixture."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of what ``encode`` takes by default."""
        ...

    @property
    def unit(self) -> int:
        """Other heights and widths of an image must be multiples of it; 0 where there are no others."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def meter(self) -> NetworkCallCounter:
        """Network passes so far."""
        ...

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """Predictions at x_t under each condition, all in one network call, float32 (float64 for exact priors fed float64)."""
        ...

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        """x0 of images in [0, 1], differentiable."""
        ...

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] of x0."""
        ...

    def condition(self, prompts: Sequence[str]) -> Condition:
        """One row per prompt; the empty string is the unconditional row. Cached."""
        ...


@runtime_checkable
class AttentionPrior(Prior, Protocol):
    """A prior with a network whose attention can be looked at."""

    def attending(self) -> AbstractContextManager[list[Float[Tensor, "r c h w"]]]:
        """While it is open, every call appends what each self-attention layer of the decoder answers, all rows, in the order of the
        layers. Gradients flow; afterwards the network is as it was."""
        ...


class PriorWrapper:
    """A prior made from another: of its space, with answers of its own. Subclasses are called like any prior."""

    def __init__(self, prior: Prior):
        self.schedule: NoiseSchedule = prior.schedule
        self.kind: PredictionType = prior.kind
        self.shape, self.image_size, self.unit = prior.shape, prior.image_size, prior.unit
        self.device, self.meter = prior.device, NetworkCallCounter()
        self.encode, self.decode, self.condition = prior.encode, prior.decode, prior.condition
