"""Backgrounds behind an object: a constant, random or learned color, or a network of direction."""

from __future__ import annotations

import abc
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.graphics.fields.decoders import init_mlp

RGB = tuple[float, float, float]


class BackgroundModule(nn.Module, abc.ABC):
    """The background of one particle."""

    @abc.abstractmethod
    def forward(
        self,
        directions: Float[Tensor, "*n 3"],
        rng: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> Float[Tensor, "*n 3"]:
        """Colors in [0, 1] along ray directions.

        Args:
            directions: unit vectors, ``[N, 3]`` of one view or ``[B, ..., 3]`` of B views.
            rng: source of the randomness of training renders. None for evaluation renders.
            progress: fraction of training that is done.
        """


@dataclass(frozen=True)
class Background(abc.ABC):
    """Options of a background.

    Attributes:
        lr_scale: learning rate of the background's parameters, relative to the field's.
    """

    lr_scale: float = field(default=1.0, kw_only=True, metadata={"minimum": 0})

    @abc.abstractmethod
    def build(self, generator: torch.Generator) -> BackgroundModule:
        """Build the module on the CPU, with parameters drawn from the generator."""


def _per_view_shape(values: Float[Tensor, "*n 3"]) -> tuple[int, ...]:
    """Shape that holds one color per view and broadcasts over the view's rays."""
    return (len(values), *(1,) * (values.ndim - 2), 3) if values.ndim > 2 else (1, 3)


def _randomly_replaced(
    colors: Float[Tensor, "*n 3"],
    prob: float,
    rng: torch.Generator | None,
    shared: bool = False,
) -> Float[Tensor, "*n 3"]:
    """Replace each view's colors by one uniform random color with probability ``prob``.

    Without a generator, or if ``prob`` is 0, nothing is drawn. All views share their color, or are
    not replaced together, if ``shared``.
    """
    if rng is None or not prob:
        return colors
    shape = _per_view_shape(colors[:1] if shared else colors)
    random_color = torch.rand(shape, generator=rng).to(colors)
    replaced = (torch.rand((*shape[:-1], 1), generator=rng) < prob).to(colors.device)
    return torch.where(replaced, random_color, colors)


def _check_color(name: str, color: RGB) -> None:
    if min(color) < 0 or max(color) > 1:
        values = " ".join(f"{c:g}" for c in color)
        raise ValueError(f"{name} takes red, green and blue in [0, 1], not {values}")


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], not {value}")


class _ConstantColor(BackgroundModule):
    def __init__(self, color: RGB, random_prob: float = 0.0):
        super().__init__()
        self.random_prob = random_prob
        self.color: Tensor
        self.register_buffer("color", torch.tensor(color), persistent=False)

    def forward(
        self,
        directions: Float[Tensor, "*n 3"],
        rng: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> Float[Tensor, "*n 3"]:
        colors = self.color.to(directions).expand_as(directions)
        return _randomly_replaced(colors, self.random_prob, rng)


class _LearnedColor(BackgroundModule):
    def __init__(self, color: RGB):
        super().__init__()
        # clamped, since a sigmoid has no gradient at 0 and 1
        self.logit = nn.Parameter(torch.tensor(color).clamp(0.02, 0.98).logit())

    def forward(
        self,
        directions: Float[Tensor, "*n 3"],
        rng: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> Float[Tensor, "*n 3"]:
        return self.logit.sigmoid().expand_as(directions)


@dataclass(frozen=True)
class SolidBackground(Background):
    """One color.

    Attributes:
        color: red, green and blue in [0, 1].
        learned: optimize the color, one per particle, starting from ``color``.
        lr_scale: learning rate of the background's parameters, relative to the field's.
    """

    color: RGB = (1.0, 1.0, 1.0)
    learned: bool = False

    def __post_init__(self) -> None:
        _check_color("color", self.color)

    def build(self, generator: torch.Generator) -> BackgroundModule:
        return _LearnedColor(self.color) if self.learned else _ConstantColor(self.color)


@dataclass(frozen=True)
class RandomBackground(Background):
    """A random color for every training view, so that the object cannot use the background.

    Attributes:
        random_prob: probability that a training view gets a uniform random color.
        color: color of the other training views and of evaluation renders.
        lr_scale: unused, since nothing is learned.
    """

    random_prob: float = 1.0
    color: RGB = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        _check_fraction("random_prob", self.random_prob)
        _check_color("color", self.color)

    def build(self, generator: torch.Generator) -> BackgroundModule:
        return _ConstantColor(self.color, self.random_prob)


class _EnvironmentMap(BackgroundModule):
    """sigmoid MLP(d, sin 2^k d, cos 2^k d) for k < ``num_frequencies``."""

    def __init__(self, spec: EnvironmentBackground, generator: torch.Generator):
        super().__init__()
        self.spec = spec
        inputs = 3 + 6 * spec.num_frequencies
        hidden = (spec.hidden_dim,) * spec.num_hidden_layers
        self.network = init_mlp((inputs, *hidden, 3), generator)

    def forward(
        self,
        directions: Float[Tensor, "*n 3"],
        rng: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> Float[Tensor, "*n 3"]:
        angles = [directions * 2.0**k for k in range(self.spec.num_frequencies)]
        waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
        colors = self.network(torch.cat([directions, *waves], -1)).sigmoid()
        prob = self.spec.random_aug_prob if progress >= self.spec.random_aug_start else 0.0
        return _randomly_replaced(colors, prob, rng, self.spec.random_aug_shared)


@dataclass(frozen=True)
class EnvironmentBackground(Background):
    """A small MLP of the ray direction, with the sizes of ProlificDreamer's code.

    Attributes:
        num_frequencies: octaves of the positional encoding of the direction.
        hidden_dim: width of the hidden layers.
        num_hidden_layers: number of hidden layers.
        random_aug_prob: probability that a training view gets a uniform random color instead
            (ProlificDreamer's code: 0.5).
        random_aug_start: fraction of training from which random colors are used.
        random_aug_shared: one random color for all views of a particle in a step, as a model needs
            that sees them together (MVDream). Off: one for each view.
        lr_scale: learning rate of the background's parameters, relative to the field's.

    References:
        Poole et al., DreamFusion, arXiv 2209.14988, section 3.1.
    """

    num_frequencies: int = 4
    hidden_dim: int = 16
    num_hidden_layers: int = 2
    random_aug_prob: float = 0.0
    random_aug_start: float = 0.08
    random_aug_shared: bool = False

    def __post_init__(self) -> None:
        _check_fraction("random_aug_prob", self.random_aug_prob)
        _check_fraction("random_aug_start", self.random_aug_start)
        minima = {"num_frequencies": 0, "hidden_dim": 1, "num_hidden_layers": 0}
        for name, minimum in minima.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, not {getattr(self, name)}")

    def build(self, generator: torch.Generator) -> BackgroundModule:
        return _EnvironmentMap(self, generator)
