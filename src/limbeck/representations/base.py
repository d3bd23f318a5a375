"""Representations: parameters that render to images or latents, and the configs that build them."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, NoCamera
from limbeck.graphics.geometry.assets import MappedMesh, Splats, Surface
from limbeck.system.image_files import image_file_size, read_image


@dataclass(frozen=True)
class Render:
    """Renders of B rows.

    3D representations also return alpha, depth and normals, of the rendered height y and width x.

    Attributes:
        image: images in [0, 1], ``[B, 3, H, W]``, or latents of the prior, ``[B, ...]``.
        space: which of the two ``image`` holds.
        alpha: opacity in [0, 1].
        depth: mean depth along the axis of the camera, 0 where nothing is.
        normal: unit normals in world space.
        terms: scalars for ``Representation.regularize``.
        background: what is behind the object, in the size of ``image``. None: not known.
        condition: the prompts that the images are of, if they are not those of the particles.
        particle: particle of each row, on the CPU, for ``Representation.regularize``.
    """

    image: Float[Tensor, "b ..."]
    space: Literal["image", "latent"]
    alpha: Float[Tensor, "b 1 y x"] | None = None
    depth: Float[Tensor, "b 1 y x"] | None = None
    normal: Float[Tensor, "b 3 y x"] | None = None
    terms: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    background: Float[Tensor, "b ..."] | None = None
    condition: Condition | None = None
    particle: Int[Tensor, "b"] | None = None


class Representation(nn.Module, abc.ABC):
    """The parameters of all particles.

    After ``separate_particles``, a particle that is not in a request must get no gradient (None),
    so that the optimizer leaves it as it is. A generator has no parameters of particles; all its
    samples share them.
    """

    #: One line on how the initialization went; "" if there is nothing to report.
    init_message = ""

    @abc.abstractmethod
    def render(self, request: RenderRequest) -> Render:
        """Render the particles of a request, differentiably.

        Args:
            request: one particle per row; 3D representations need one camera per row.
        """

    @abc.abstractmethod
    def param_groups(self) -> Iterable[dict]:
        """Return optimizer groups, each with its peak learning rate as ``lr``."""

    def set_prompts(self, prior: Prior, prompts: Sequence[str]) -> None:
        """Receive the prompts of the run, before the first render; most have no use for them.

        Args:
            prior: the model of the run.
            prompts: the prompts, each of equally many particles.
        """
        return None

    def critic_only_steps(self, step: int) -> int:
        """Return how often a critic is trained on renders of their own before a step.

        Args:
            step: number of the step, from 0.
        """
        return 0

    def separate_particles(self) -> None:
        """Give each particle parameters of its own.

        Called before ``param_groups`` if not every step draws all particles.
        """
        return None

    def render_source(self, request: RenderRequest) -> Render:
        """Render the source of an edit, called before the first step.

        Args:
            request: one particle per row.
        """
        return self.render(request)

    def render_unlit(self, request: RenderRequest) -> Render:
        """Render the colors themselves, for what is fitted to them; most have no light.

        Args:
            request: one particle and one camera per row, without random numbers.
        """
        return self.render(request)

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        """Return weighted loss terms by name, which are added to that of the method.

        Args:
            render: what ``render`` has returned in this step.
            progress: fraction of the run, in [0, 1].
        """
        return {}

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Update what is not learned by gradients, such as occupancy; called after every step.

        The shapes of parameters must not change.

        Args:
            step: number of the step, from 0.
            steps: steps of the run.
            optimizer: optimizer of ``param_groups``.
        """
        return None

    def images(self, prior: Prior, request: RenderRequest) -> Float[Tensor, "b 3 h w"]:
        """Return images in [0, 1]; latents are decoded, images do not pass the autoencoder.

        Args:
            prior: the model of the run.
            request: as of ``render``.
        """
        render = self.render(request)
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

    @property
    def drawing(self) -> Representation:
        """What is rendered, without what is done with the render afterwards, such as a mask."""
        return self

    @property
    def box_bound(self) -> float | None:
        """Half the side of the box that cuts the particles off; None if there is none."""
        return None

    def asset(self, particle: int) -> Surface | MappedMesh | Splats:
        """Return the 3D asset of a particle, for files and viewers.

        Raises:
            ValueError: if the representation is 2D.
        """
        raise ValueError("this representation is 2D: it has neither a surface nor splats")

    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Write files of the representation's own, such as SVG; most have none.

        Args:
            folder: where to write.
            names: file stem of each particle.
        """
        return None


@dataclass(frozen=True)
class RepresentationConfig(abc.ABC):
    """Options of a representation.

    Attributes:
        size: height and width in pixels. 0 0: the size of the model, in the aspect ratio of the
            first initial image.
        images: image files to start from, one for all particles, one per prompt or one per
            particle; scaled to cover the size and cropped.
    """

    size: tuple[int, int] = field(default=(0, 0), kw_only=True)
    images: tuple[Path, ...] = field(default=(), kw_only=True)

    #: What x0 is: images, or noise for methods that optimize noise.
    contents: ClassVar[Literal["images", "noise"]] = "images"
    #: Whether every step renders new samples, so that nothing of a particle lasts.
    fresh_samples: ClassVar[bool] = False

    @property
    def draws_prompts(self) -> bool:
        """Whether the samples of a step are of other prompts than those of the particles."""
        return False

    @property
    def cameras(self) -> CameraSampler:
        """The camera sampler unless the experiment sets one; 3D representations: an orbit."""
        return NoCamera()

    @property
    def init_from(self) -> Path | None:
        """Run folder or checkpoint to initialize from; None: no run."""
        return None

    @property
    def uninitialized(self) -> RepresentationConfig:
        """The config without a costly initialization, for parameters that a checkpoint replaces."""
        return self

    @property
    def for_display(self) -> RepresentationConfig:
        """The config of particles that no step changes anymore, without what training reads."""
        return self.uninitialized

    @property
    def optimizes_shape(self) -> bool:
        """Whether opacity and depth of 3D renders are optimized."""
        return True

    @property
    def shows_color(self) -> bool:
        """Whether 3D renders show colors, not normals or a gray surface."""
        return True

    @property
    def optimizes_normals(self) -> bool:
        """Whether the normals of deterministic 3D renders are optimized."""
        return self.optimizes_shape

    @property
    def idle_options(self) -> Mapping[str, str]:
        """Options that have no effect beside the others, with the reason, as "without geometry".

        They are not refused, since presets set some of them too.
        """
        return {}

    @property
    def image_files(self) -> tuple[Path, ...]:
        """All image files that ``build`` reads."""
        return self.images

    @property
    def input_files(self) -> tuple[Path, ...]:
        """All files that results depend on: images, and those of the representation's own."""
        return self.image_files

    def check_files(self) -> None:
        """Check the files that ``build`` reads, before the model is loaded.

        Raises:
            ValueError: if one cannot be used.
        """
        return None

    @abc.abstractmethod
    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        """Return new parameters, a function of the seed and the initial images only.

        Args:
            prior: the model of the run.
            particles: number of particles.
            seed: seed of the initial values.
        """

    def canvas_size(self, prior: Prior) -> tuple[int, int]:
        """Return height and width in pixels.

        Raises:
            ValueError: if the model does not support ``size``.
        """
        if self.size == (0, 0):
            return fitted_size(self.images[0], prior) if self.images else prior.image_size
        multiple = prior.size_multiple
        is_multiple = bool(multiple) and not any(side % multiple for side in self.size)
        if min(self.size) <= 0 or not (is_multiple or self.size == prior.image_size):
            default, size = (f"{h} {w}" for h, w in (prior.image_size, self.size))
            others = f", or multiples of {multiple}" if multiple else " and no other"
            raise ValueError(f"size is {default} for this model{others}; not {size}")
        return self.size

    def initial_images(self, prior: Prior, particles: int) -> Float[Tensor, "n 3 h w"] | None:
        """Return the initial image of each particle, in [0, 1]; None without ``images``.

        Args:
            prior: the model of the run, for the size.
            particles: number of particles.

        Raises:
            ValueError: if the number of images does not divide that of particles, or a file cannot
                be read.
        """
        if not self.images:
            return None
        if particles % len(self.images):
            raise ValueError(
                f"{len(self.images)} images for {particles} particles: give one, one per prompt, "
                "or one per particle"
            )
        images = torch.stack([read_image(path, self.canvas_size(prior)) for path in self.images])
        return images.repeat_interleave(particles // len(self.images), 0)

    def distinct_initial_images(
        self, prior: Prior, particles: int
    ) -> Float[Tensor, "m 3 h w"] | None:
        """Return the initial images without repetition, to fit each only once.

        Args:
            prior: the model of the run, for the size.
            particles: number of particles.
        """
        images = self.initial_images(prior, particles)
        return None if images is None else images[:: particles // len(self.images)]


def latent_shape(prior: Prior, canvas_size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of one x0 of the prior.

    Args:
        prior: the model.
        canvas_size: height and width of the image in pixels.
    """
    if canvas_size == prior.image_size:
        return prior.shape
    channels, *latent_size = prior.shape
    sizes = zip(canvas_size, latent_size, prior.image_size, strict=True)
    return (channels, *(pixels * latent // default for pixels, latent, default in sizes))


@runtime_checkable
class SpatialFields(Protocol):
    """A representation with a density and a color at every point of space."""

    @property
    def box_bound(self) -> float | None:
        """Half the side of the box that cuts the particles off; None if there is none."""
        ...

    def density(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n"]:
        """Return the density at points in world space, per unit of length."""
        ...

    def albedo(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n 3"]:
        """Return the unlit color at points in world space, in [0, 1]."""
        ...

    def asset(self, particle: int) -> Surface:
        """Return the colored surface of a particle."""
        ...


def match_particles(num_source: int, num_target: int, source: Path) -> list[int]:
    """Return the particle of another run that each particle is initialized from.

    Args:
        num_source: particles of the other run: one, one per prompt, or one per particle.
        num_target: particles of this run.
        source: where the other run was read from, for the message.

    Raises:
        ValueError: if ``num_source`` does not divide ``num_target``.
    """
    if num_target % num_source:
        raise ValueError(
            f"{source} has {num_source} particles for {num_target} of this run: it must have one, "
            "one per prompt, or one per particle"
        )
    return [i // (num_target // num_source) for i in range(num_target)]


def fitted_size(path: Path, prior: Prior) -> tuple[int, int]:
    """Return the size of the model in the aspect ratio of an image file.

    Args:
        path: image file.
        prior: the model.

    Returns:
        Height and width: the short side is that of the model, the long one a multiple of
        ``prior.size_multiple``. The model's own size if it has no other.

    Raises:
        ValueError: if the file cannot be read.
    """
    multiple = prior.size_multiple
    if multiple == 0:
        return prior.image_size
    width, height = image_file_size(path)
    short = min(prior.image_size)
    long = max(short, round(short * max(width, height) / min(width, height) / multiple) * multiple)
    return (long, short) if height > width else (short, long)
