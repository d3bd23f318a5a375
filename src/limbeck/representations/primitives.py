"""Images of many primitives, and what a render of so many costs, estimated from a few."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, Representation
from limbeck.representations.particle_parameters import ParticleParameters
from limbeck.system.allocation_guard import check_allocation
from limbeck.system.flops import OpCounter
from limbeck.system.notices import notify
from limbeck.system.timing import elapsed_seconds

_FIRST_SAMPLE = 128  #: primitives of the smallest sample
_SAMPLE_SECONDS = 0.2  #: a sample that takes so long is large enough to be timed
_SLOW_SECONDS = 1.0  #: a step that takes longer is announced before the first one


class PrimitiveParticles(ParticleParameters):
    """Particles of K primitives each, composited on a background of one color.

    Args:
        initial: initial values; all but ``background`` are ``[N, K, ...]``.
        lrs: peak learning rates by name.
        size: height and width of a render in pixels.
    """

    primitives: ClassVar[str]  #: what they are called

    def __init__(
        self,
        initial: Mapping[str, Float[Tensor, "n ..."]],
        lrs: Mapping[str, float],
        size: tuple[int, int],
    ):
        super().__init__(initial, lrs)
        self.size = size

    @abc.abstractmethod
    def render_at(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> Float[Tensor, "b 3 h w"]:
        """Render at any resolution.

        Args:
            particle: particle of each row.
            height: height in pixels.
            width: width in pixels.
        """

    def render(self, request: RenderRequest) -> Render:
        return Render(self.render_at(request.particle, *self.size), "image")

    @property
    def num_primitives(self) -> int:
        """Number of primitives of a particle."""
        return len(self.params["opacities"][0])

    def sample_primitives(self, count: int) -> Self:
        """Return a copy of the first particle with its first ``count`` primitives only."""
        sample = deepcopy(self)
        for name, tensors in sample.params.items():
            first = tensors[0].detach()
            kept = first if name == "background" else first[:count]
            sample.params[name] = nn.ParameterList([kept.clone()])
        return sample


@dataclass(frozen=True)
class RenderCost:
    """Cost of the render of one row and of its gradient.

    Attributes:
        seconds: time.
        bytes: peak memory.
    """

    seconds: float
    bytes: int


def estimate_render_cost(particles: PrimitiveParticles) -> RenderCost:
    """Measure a sample of the primitives and scale to all; takes about half a second at most.

    Primitives are spread evenly over the canvas, so work and memory grow with their number; what
    does not, such as the memory of one batch of tiles, cancels between two samples.
    """
    total, device = particles.num_primitives, str(next(particles.parameters()).device)
    count = min(_FIRST_SAMPLE, total)
    while True:
        sample = particles.sample_primitives(count)
        seconds = elapsed_seconds(partial(_render_with_gradient, sample), device)
        if seconds > _SAMPLE_SECONDS or 2 * count > total:
            break
        count *= 2
    size = _peak_bytes(sample, device)
    half = (count + 1) // 2
    growth = (size - _peak_bytes(particles.sample_primitives(half), device)) / max(count - half, 1)
    scaled = size + max(growth, 0) * (total - count)
    return RenderCost(seconds * total / count, round(scaled))


def _peak_bytes(sample: PrimitiveParticles, device: str) -> int:
    with OpCounter(device) as counter, counter.part("render"):
        _render_with_gradient(sample)
    return max(counter.bytes.values())


def _render_with_gradient(sample: PrimitiveParticles) -> None:
    with torch.enable_grad():
        sample.render_at(torch.tensor([0]), *sample.size).sum().backward()


def check_render_cost(representation: Representation, rows: int, steps: int, what: str) -> None:
    """Refuse renders that do not fit into memory, and tell the time of slow ones beforehand.

    Args:
        representation: what is rendered; only images of primitives are checked, as the work of
            others does not grow with an option that has no bound.
        rows: renders of a step.
        steps: number of steps.
        what: what the steps are of, for the message.

    Raises:
        ValueError: if the renders of a step need more memory than is free.
    """
    drawing = representation.drawing
    if not isinstance(drawing, PrimitiveParticles) or steps == 0:
        return
    cost = estimate_render_cost(drawing)
    height, width = drawing.size
    count = f"{drawing.num_primitives:,} {drawing.primitives}"
    images = f"{rows} images" if rows > 1 else "an image"
    subject = f"{images} of {height} x {width} pixels with {count}"
    device = str(next(drawing.parameters()).device)
    check_allocation(rows * cost.bytes, device, f"a step of {subject}")
    seconds = rows * cost.seconds
    if seconds > _SLOW_SECONDS:
        notify(
            f"{subject}: rendering takes about {seconds:.2g} s a step, so the {steps} steps of "
            f"{what} take about {_format_minutes(steps * seconds)} besides the model; fewer "
            f"{drawing.primitives} are faster in proportion"
        )


def _format_minutes(seconds: float) -> str:
    return f"{seconds / 3600:.2g} h" if seconds >= 7200 else f"{max(seconds / 60, 1):.0f} min"
