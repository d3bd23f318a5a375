"""What is seen past an object: one colour, a colour drawn anew, the world's own, or a network of the direction."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.graphics.fields.decoders import init_mlp

RGB = tuple[float, float, float]


class BackgroundModule(nn.Module, abc.ABC):
    """A background, for one particle."""

    @abc.abstractmethod
    def forward(self, ahead: Float[Tensor, "*n 3"], rng: torch.Generator | None = None, progress: float = 1.0
                ) -> Float[Tensor, "*n 3"]:  # fmt: skip
        """Colours in [0, 1] along unit directions: ``[n, 3]`` of one view, ``[b, ..., 3]`` of b views. rng: draws what is random
        in training; None for a look that repeats. progress: share of the run that is done."""


@dataclass(frozen=True)
class Background(abc.ABC):
    """The options of a background.

    rate: of its parameters, in units of the field's rate.
    """

    rate: float = field(default=1.0, kw_only=True)

    @abc.abstractmethod
    def build(self, generator: torch.Generator) -> BackgroundModule:
        """Parameters drawn by the generator, on the CPU."""


def _per_view(ahead: Float[Tensor, "*n 3"]) -> tuple[int, ...]:
    """A shape that holds one colour per view and broadcasts over its directions."""
    return (len(ahead), *(1,) * (ahead.ndim - 2), 3) if ahead.ndim > 2 else (1, 3)


def _sometimes_flat(
    seen: Float[Tensor, "*n 3"], chance: float, rng: torch.Generator | None
) -> Float[Tensor, "*n 3"]:
    """``seen``, or with a chance a colour uniform in the cube in its place, each view for itself. Nothing is drawn at chance 0."""
    if rng is None or not chance:
        return seen
    shape = _per_view(seen)
    flat = torch.rand(shape, generator=rng).to(seen)
    there = (torch.rand((*shape[:-1], 1), generator=rng) < chance).to(seen.device)
    return torch.where(there, flat, seen)


def _colour(name: str, colour: RGB) -> None:
    if min(colour) < 0 or max(colour) > 1:
        raise ValueError(
            f"{name} takes red, green and blue in [0, 1], not {' '.join(f'{c:g}' for c in colour)}"
        )


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share in [0, 1], not {value}")


class _Flat(BackgroundModule):
    def __init__(self, colour: RGB, chance: float = 0.0):
        super().__init__()
        self.chance = chance
        self.colour: Tensor
        self.register_buffer("colour", torch.tensor(colour), persistent=False)

    def forward(self, ahead: Float[Tensor, "*n 3"], rng: torch.Generator | None = None, progress: float = 1.0
                ) -> Float[Tensor, "*n 3"]:  # fmt: skip
        return _sometimes_flat(self.colour.to(ahead).expand_as(ahead), self.chance, rng)


class _Learned(BackgroundModule):
    def __init__(self, colour: RGB):
        super().__init__()
        self.logit = nn.Parameter(
            torch.tensor(colour).clamp(0.02, 0.98).logit()
        )  # at the ends of a sigmoid nothing moves

    def forward(self, ahead: Float[Tensor, "*n 3"], rng: torch.Generator | None = None, progress: float = 1.0
                ) -> Float[Tensor, "*n 3"]:  # fmt: skip
        return self.logit.sigmoid().expand_as(ahead)


@dataclass(frozen=True)
class SolidBackground(Background):
    """One colour.

    colour: red, green, blue. learned: it is where a colour begins that is optimised, one per particle.
    """

    colour: RGB = (1.0, 1.0, 1.0)
    learned: bool = False

    def __post_init__(self) -> None:
        _colour("colour", self.colour)

    def build(self, generator: torch.Generator) -> BackgroundModule:
        return _Learned(self.colour) if self.learned else _Flat(self.colour)


@dataclass(frozen=True)
class RandomBackground(Background):
    """A colour drawn anew for every view in training, so that nothing of the background can be part of the object.

    chance: how often. colour: otherwise, and when results are looked at.
    """

    chance: float = 1.0
    colour: RGB = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        _share("chance", self.chance)
        _colour("colour", self.colour)

    def build(self, generator: torch.Generator) -> BackgroundModule:
        return _Flat(self.colour, self.chance)


class _Environment(BackgroundModule):
    """sigmoid MLP(d, sin 2^k d, cos 2^k d), k < K."""

    def __init__(self, spec: EnvironmentBackground, generator: torch.Generator):
        super().__init__()
        self.spec = spec
        self.network = init_mlp(
            (3 + 6 * spec.frequencies, *(spec.hidden,) * spec.layers, 3), generator
        )

    def forward(self, ahead: Float[Tensor, "*n 3"], rng: torch.Generator | None = None, progress: float = 1.0
                ) -> Float[Tensor, "*n 3"]:  # fmt: skip
        turned = [ahead * 2.0**k for k in range(self.spec.frequencies)]
        known = torch.cat(
            [ahead, *(wave for angle in turned for wave in (angle.sin(), angle.cos()))], -1
        )
        return _sometimes_flat(
            self.network(known).sigmoid(),
            self.spec.chance if progress >= self.spec.after else 0.0,
            rng,
        )


@dataclass(frozen=True)
class EnvironmentBackground(Background):
    """A small network of the direction (DreamFusion, arXiv 2209.14988, section 3.1; ProlificDreamer's code: these sizes).

    frequencies: octaves of the direction's encoding. hidden: units of a layer. layers: hidden ones. chance: how often a drawn
    colour stands in its place in training (ProlificDreamer's code: .5), after that share of the run (.08).
    """

    frequencies: int = 4
    hidden: int = 16
    layers: int = 2
    chance: float = 0.0
    after: float = 0.08

    def __post_init__(self) -> None:
        _share("chance", self.chance)
        _share("after", self.after)
        for name, least in (("frequencies", 0), ("hidden", 1), ("layers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")

    def build(self, generator: torch.Generator) -> BackgroundModule:
        return _Environment(self, generator)
