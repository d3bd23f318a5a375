"""The one face every frozen model wears, exact or learned, and the guidance that is said once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from limbeck.prediction import Kind, Prediction
from limbeck.schedule import NoiseSchedule

Precision = Literal["auto", "float32", "bfloat16", "float16"]  #: of frozen weights


@dataclass(frozen=True)
class Condition:
    """What a prior is told about each row: for a text model the token features ``[B, L, D]``, for a mixture class log-weights
    ``[B, K]``.

    adapters: the low-rank adapters these rows pass through, None for the frozen network alone.
    """

    data: Float[Tensor, "b ..."]
    adapters: object | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        return replace(self, data=self.data[rows])

    def through(self, adapters: object) -> Condition:
        """The same words, asked of a critic that shares the prior's network."""
        return replace(self, adapters=adapters)


@dataclass(frozen=True)
class Conditions:
    """A prompt as the prior hears it: ``pos`` the text, ``null`` the empty or negative text it is guided away from."""

    pos: Condition
    null: Condition

    def __getitem__(self, rows: Tensor | slice) -> Conditions:
        return Conditions(self.pos[rows], self.null[rows])


@dataclass
class Meter:
    """Network passes so far: ``calls`` of the network, ``rows`` through it."""

    calls: int = 0
    rows: int = 0

    def count(self, rows: int) -> None:
        self.calls += 1
        self.rows += rows


@runtime_checkable
class Prior(Protocol):
    """A frozen model as one callable. Images are [0, 1] float32 NCHW outside; casts happen only inside."""

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def kind(self) -> Kind:
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
    def device(self) -> str: ...

    @property
    def meter(self) -> Meter:
        """Network passes so far."""
        ...

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition) -> list[Prediction]:
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


def asked(told: Conditions, scale: float) -> list[Condition]:
    """The conditions guidance needs: one at scale 1 or 0, else null and pos."""
    if scale == 1:
        return [told.pos]
    return [told.null] if scale == 0 else [told.null, told.pos]


def combined(answers: Sequence[Prediction], scale: float) -> Prediction:
    """null + scale (pos - null), from the answers to ``asked``."""
    return answers[0].lerp(answers[1], scale) if len(answers) == 2 else answers[0]


def guided(prior: Prior, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], told: Conditions, scale: float) -> Prediction:
    """Guidance as diffusers counts it. Scale 1 and scale 0 cost one pass, any other two in one call."""
    return combined(prior(xt, t, *asked(told, scale)), scale)
