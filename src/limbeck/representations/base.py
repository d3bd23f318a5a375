"""What is optimised: parameters that render to an image or a latent, and the frozen spec that builds them."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, NoCamera
from limbeck.graphics.geometry.assets import Splats, Surface
from limbeck.representations.image_files import fitted_size, read_image


@dataclass(frozen=True)
class Render:
    """What a representation shows: images in [0, 1] or latents of the prior, ``[B, ...]``, as ``space`` says.

    Of what has sides also, at the size it was rendered at: alpha in [0, 1], mean depth along the camera's axis, 0 where nothing is,
    normal of unit length in the space of the world; and terms, scalars that ``regularise`` may weigh.
    """

    image: Float[Tensor, "b ..."]
    space: Literal["image", "latent"]
    alpha: Float[Tensor, "b 1 y x"] | None = None
    depth: Float[Tensor, "b 1 y x"] | None = None
    normal: Float[Tensor, "b 3 y x"] | None = None
    terms: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


class Representation(nn.Module, abc.ABC):
    """Parameters of all particles. A particle that is not in ``view`` gets no gradient, and so does not move."""

    init_message = (
        ""  #: one line about how initialization went; empty if there is nothing to report
    )

    @abc.abstractmethod
    def render(self, view: RenderRequest) -> Render:
        """What the particles in view show, to the cameras if it has sides."""

    @abc.abstractmethod
    def param_groups(self) -> Iterable[dict]:
        """Optimiser groups, each with its peak rate as ``lr``."""

    def render_source(self, view: RenderRequest) -> Render:
        """What an edit starts from, asked before the first step; what the particles show then, unless said otherwise."""
        return self.render(view)

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        """Terms to descend beside the method's, by name, weighed as they are at this share of the run."""
        return {}

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Called after every step of the optimiser: occupancy, densifying and the like. Shapes of tensors must stay."""
        return None

    def images(self, prior: Prior, view: RenderRequest) -> Float[Tensor, "b 3 h w"]:
        """The representation itself as images in [0, 1], never a detour through the autoencoder."""
        render = self.render(view)
        return render.image if render.space == "image" else prior.decode(render.image)

    def initialize_from(
        self, other: Representation, particles: int, source: Path, seed: int
    ) -> None:
        """Take over what another run made.

        Args:
            other: the representation of the other run.
            particles: number of particles of the other run.
            source: run folder or checkpoint that ``other`` was read from, for messages.
            seed: seed of this run.

        Raises:
            ValueError: if this representation cannot be initialized from ``other``.
        """
        raise ValueError(f"{type(self).__name__} cannot be initialized from another run ({source})")

    def asset(self, particle: int) -> Surface | Splats:
        """A particle as files and viewers want it; ValueError where it has no sides."""
        raise ValueError("this representation is flat: it has neither a surface nor splats")

    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Files of its own for the folder of a run, ``names`` being one per particle; usually none."""
        return None


class ParticleParameters(Representation):
    """Named tensors, one of each for every particle, so that one which is not drawn keeps its optimiser state as it is."""

    def __init__(self, start: Mapping[str, Float[Tensor, "n ..."]], rates: Mapping[str, float]):
        super().__init__()
        self.params = nn.ParameterDict(
            {name: nn.ParameterList(value.unbind(0)) for name, value in start.items()}
        )
        self.lrs = dict(rates)

    def gather(self, name: str, view: Int[Tensor, "b"]) -> Float[Tensor, "b ..."]:
        """The tensors of one name of the particles in view, stacked."""
        return torch.stack([self.params[name][i] for i in view.tolist()])

    def param_groups(self) -> list[dict]:
        return [
            {"params": list(tensors), "lr": self.lrs[name]}
            for name, tensors in self.params.items()
        ]

    def repeat(self, each: int) -> None:
        """Every particle ``each`` times, as it is now."""
        for name, part in self.params.items():
            self.params[name] = nn.ParameterList(
                p.detach().clone() for p in part for _ in range(each)
            )


@dataclass(frozen=True)
class RepresentationConfig(abc.ABC):
    """The options of a representation.

    size: height and width in pixels; 0 0 for those of the images or of the model. images: files to begin with, one for all
    particles, one per prompt or one per particle; they are scaled and cut to the size, never squashed.
    """

    size: tuple[int, int] = field(default=(0, 0), kw_only=True)
    images: tuple[Path, ...] = field(default=(), kw_only=True)

    contents: ClassVar[str] = "pictures"  #: what x0 is; noise for a method that looks for it

    @property
    def cameras(self) -> CameraSampler:
        """How it is looked at unless the experiment says otherwise; an orbit for what has sides."""
        return NoCamera()

    @property
    def init_from(self) -> Path | None:
        """Run folder or checkpoint whose result the particles start from; None for a fresh start."""
        return None

    @property
    def uninitialized(self) -> RepresentationConfig:
        """The same for what is about to be read from a checkpoint: without a start that would be fitted first, only to be lost."""
        return self

    @abc.abstractmethod
    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        """Parameters for ``particles`` particles, a function of the seed and of the images only."""

    def canvas_size(self, prior: Prior) -> tuple[int, int]:
        """Height and width in pixels; ValueError where the model cannot have them."""
        if self.size == (0, 0):
            return fitted_size(self.images[0], prior) if self.images else prior.image_size
        allowed = self.size == prior.image_size or (
            prior.size_multiple and not any(side % prior.size_multiple for side in self.size)
        )
        if min(self.size) <= 0 or not allowed:
            own, asked = (f"{h} {w}" for h, w in (prior.image_size, self.size))
            other = f", or multiples of {prior.size_multiple}" if prior.size_multiple else " and no other"
            raise ValueError(f"size is {own} for this model{other}; not {asked}")
        return self.size

    def initial_images(self, prior: Prior, particles: int) -> Float[Tensor, "n 3 h w"] | None:
        """The image each particle begins with, in [0, 1]; None where there are none."""
        if not self.images:
            return None
        if particles % len(self.images):
            raise ValueError(
                f"{len(self.images)} images for {particles} particles: give one, one per prompt, or one per particle"
            )
        read = torch.stack([read_image(path, self.canvas_size(prior)) for path in self.images])
        return read.repeat_interleave(particles // len(self.images), 0)

    def distinct_initial_images(
        self, prior: Prior, particles: int
    ) -> Float[Tensor, "m 3 h w"] | None:
        """The same without repetition, for a representation that is fitted to each of them once."""
        images = self.initial_images(prior, particles)
        return None if images is None else images[:: particles // len(self.images)]




def latent_shape(prior: Prior, canvas: tuple[int, int]) -> tuple[int, ...]:
    """Shape of one x0 of images of a height and width."""
    if canvas == prior.image_size:
        return prior.shape
    channels, height, width = prior.shape
    return (
        channels,
        canvas[0] * height // prior.image_size[0],
        canvas[1] * width // prior.image_size[1],
    )








def fit_to_images(
    made: ParticleParameters,
    goal: Float[Tensor, "m ..."] | None,
    particles: int,
    steps: int,
    rate: float = 1.0,
) -> ParticleParameters:
    """``made`` as it begins: fitted to what its m particles shall show at first, and each then repeated; None leaves it alone.

    Adam on the squared error for ``steps`` steps, at ``rate`` times the rates of the groups, falling to zero as a cosine; it draws
    nothing. ``made.init_message`` then tells how near it came: the peak signal-to-noise ratio, for latents of the range they have.
    """
    if goal is None:
        return made
    goal, everyone = goal.to(next(made.parameters())), torch.arange(len(goal))
    adam = torch.optim.Adam(
        [{**group, "lr": rate * group["lr"]} for group in made.param_groups()],
        betas=(0.9, 0.99),
        eps=1e-15,
    )
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(steps, 1))
    for _ in range(steps):
        adam.zero_grad(set_to_none=True)
        loss = (made.render(RenderRequest(everyone)).image - goal).square().flatten(1).mean(1).sum()
        loss.backward()
        adam.step()
        fall.step()
    with torch.no_grad():
        render = made.render(RenderRequest(everyone))
        errors = (render.image - goal).square().flatten(1).mean(1)
        peak = 1.0 if render.space == "image" else goal.max() - goal.min()
        ratios = (10 * (peak**2 / errors.clamp_min(1e-10)).log10()).tolist()
    made.init_message = f"begins at {', '.join(f'{ratio:.1f}' for ratio in ratios)} dB of the images after {steps} steps of fitting"
    made.repeat(particles // len(goal))
    return made


@runtime_checkable
class SpatialFields(Protocol):
    """What is known of every point of space: how dense it is there, and of what colour."""

    def density(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n"]: ...

    def albedo(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n 3"]: ...


def match_particles(theirs: int, ours: int, start: Path) -> list[int]:
    """Which of the particles of the run each of ours begins with: one for all, one per prompt or one for each. ValueError where
    the numbers do not go together."""
    if ours % theirs:
        raise ValueError(
            f"{start} has {theirs} particles for {ours} of this run: it takes one, one per prompt, or one for each"
        )
    return [i // (ours // theirs) for i in range(ours)]
