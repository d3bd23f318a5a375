"""The frame of every method: what it is given for a step, what it answers, what it remembers."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.camera import Camera
from limbeck.prior import Condition, Conditions, Prior, guided
from limbeck.schedule import NoiseSchedule, sent


@dataclass(frozen=True)
class Source:
    """What an edit starts from: x0 of each row before the first step, and the text that describes it."""

    x0: Float[Tensor, "b ..."]
    told: Conditions


@dataclass(frozen=True)
class Sample:
    """Everything drawn for one step, before any network is called.

    x0 ``[B, ...]`` carries the graph of the render; t ``[B]``; eps as x0; told the conditions of each row; view the particle
    index ``[B]``; rng the step's generator; step and steps where the run stands. image: what was rendered, where that is an image
    and not x0 itself. source: of an edit. camera: each row was seen by, which is a critic's business and no method's. drawn: t on
    the CPU, where it was drawn.
    """

    x0: Float[Tensor, "b ..."]
    t: Float[Tensor, "b"]
    eps: Float[Tensor, "b ..."]
    told: Conditions
    view: Int[Tensor, "b"]
    rng: torch.Generator
    schedule: NoiseSchedule
    step: int = 0
    steps: int = 1
    image: Float[Tensor, "b 3 h w"] | None = None
    source: Source | None = None
    camera: Camera | None = None
    drawn: Float[Tensor, "b"] | None = None

    @cached_property
    def clock(self) -> Float[Tensor, "b"]:
        """t on the CPU: what is asked about which rows is decided by it, and the device is not waited for."""
        return self.t.cpu() if self.drawn is None else self.drawn

    @cached_property
    def xt(self) -> Float[Tensor, "b ..."]:
        """x_t of the detached x0 and the drawn noise."""
        return self.schedule.noised(self.x0.detach(), self.eps, self.t)

    def seen(self, told: Condition) -> Condition:
        """The rows of ``told`` with the pose each row of the sample was seen by, if by any; for critics."""
        return told if self.camera is None else replace(told, pose=sent(self.camera.pose.float(), told.data.device))

    def rows(self, rows: Int[Tensor, "r"]) -> Sample:
        """Some of the rows, by their places on the CPU; the generator is shared."""
        at = sent(rows, self.x0.device)
        image = None if self.image is None else self.image[at]
        source = None if self.source is None else Source(self.source.x0[at], self.source.told[at])
        return replace(
            self,
            x0=self.x0[at],
            t=self.t[at],
            eps=self.eps[at],
            told=self.told[at],
            view=self.view[rows],
            image=image,
            source=source,
            camera=None if self.camera is None else self.camera[rows],
            drawn=None if self.drawn is None else self.drawn[rows],
        )

    def later(self, share: float, t_min: float) -> Float[Tensor, "b"]:
        """Times t + U[0, share (t - t_min)], at most 1, drawn anew by the step's generator (ASD, DSD); on the CPU."""
        t = self.clock
        reach = torch.minimum((share * (t - t_min)).clamp_min(0), 1 - t)
        return self.schedule.snap(t + reach * torch.rand(len(reach), generator=self.rng).to(reach))


class State(Protocol):
    """What a method remembers between steps, as named tensors for the checkpoint."""

    def tensors(self) -> dict[str, Tensor]: ...

    def load(self, tensors: dict[str, Tensor]) -> None: ...


S = TypeVar("S", bound=State)


class Stateless:
    """The state of a method that remembers nothing."""

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            raise ValueError(f"this method keeps no state, but the checkpoint holds {sorted(tensors)[:3]}")


def no_other(model: str) -> Prior:
    """The loader of a start that was made by hand."""
    raise ValueError(f"no way to load {model!r} here: give Start a load")


@dataclass(frozen=True)
class Start:
    """What a state may need to be made: how many particles there are in all, how many prompts they belong to, the seed."""

    particles: int
    prompts: int
    seed: int
    x0: Float[Tensor, "n ..."]  #: first x0 of every particle, detached
    texts: tuple[str, ...] = ()  #: the prompts; particle i belongs to prompt i // (particles / prompts)
    sources: tuple[str, ...] = ()  #: of an edit: what each prompt's picture shows before it, one per prompt
    negative: str = ""  #: what guidance leads away from
    load: Callable[[str], Prior] = no_other  #: another model by name, where this one is
    said: tuple[str, ...] = ()  #: the prompts with the words of their sides, where they have some
    cameras: bool = False  #: whether the particles are looked at by cameras

    def prompt_of(self, view: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """The prompt of each particle."""
        return view // (self.particles // self.prompts)


class Words(Stateless):
    """What a method says beside the prompts, one row per prompt; made anew from the texts, so nothing is remembered."""

    def __init__(self, prior: Prior, start: Start, *texts: Sequence[str]):
        for said in texts:
            if len(said) != start.prompts:
                raise ValueError(f"one text is needed for each of the {start.prompts} prompts, not {len(said)}")
        self._per = start.particles // start.prompts
        try:
            self._said = [prior.condition(said) for said in texts]
        except ValueError as error:
            raise ValueError(f"a text of the method: {error}; change the method's own text, or leave it empty") from error

    def of(self, view: Int[Tensor, "b"]) -> list[Condition]:
        """The rows of particles, of each of the texts."""
        return [said[sent(view // self._per, said.data.device)] for said in self._said]


@dataclass(frozen=True)
class Directions:
    """A direction in x0 space and, beside it, one in the space of the rendered image, which no encoder stands before."""

    x0: Float[Tensor, "b ..."]
    image: Float[Tensor, "b 3 h w"]


@dataclass(frozen=True)
class Method(abc.ABC, Generic[S]):
    """A method of score distillation. Subclasses are final frozen dataclasses, their fields the options; one paper, one file."""

    bibtex = ""  #: the paper, for the report
    moves = "pictures"  #: what its direction is to move, as a representation says what it ``holds``
    passes = ""  #: network passes per particle and step, as in the table of methods
    backward = ""  #: what is differentiated besides the representation and a critic, if anything

    @abc.abstractmethod
    def init(self, prior: Prior, start: Start) -> S:
        """The state before the first step."""

    @abc.abstractmethod
    def __call__(self, prior: Prior, sample: Sample, state: S) -> Float[Tensor, "b ..."] | Directions:
        """The unweighted direction to descend in x0 space; called without a graph."""

    def fit(self, prior: Prior, sample: Sample, state: S) -> dict[str, Tensor]:
        """The critic's own step, after the particles'. Changes ``state`` in place; returns figures to record."""
        return {}

    def critic_prior(self, prior: Prior, state: S) -> Prior | None:
        """The learned denoiser of the particles, where there is one; for pictures of its x0 and for sampling from it."""
        return None

    def save_critic(self, prior: Prior, state: S, folder: Path) -> None:
        """Write the critic's weights for use elsewhere, where there is one."""


@dataclass(frozen=True)
class Memoryless(Method[Stateless]):
    """A method whose every step stands alone."""

    def init(self, prior: Prior, start: Start) -> Stateless:
        return Stateless()


NO_SOURCE = "this method edits: say what the pictures show with --source, and begin with --representation.images"


def edited(sample: Sample) -> Source:
    """What the sample is an edit of; ValueError where it is none."""
    if sample.source is None:
        raise ValueError(NO_SOURCE)
    return sample.source


@dataclass(frozen=True)
class Editing(Memoryless):
    """A method that leads pictures from what their source text says to what their prompt says.

    guidance: s of the predictions for the picture and for its source.
    """

    guidance: float = 7.5

    def init(self, prior: Prior, start: Start) -> Stateless:
        """Nothing to remember; ValueError where there is no source text, before anything runs."""
        if not start.sources:
            raise ValueError(NO_SOURCE)
        return Stateless()

    def gap(self, prior: Prior, sample: Sample) -> Float[Tensor, "b ..."]:
        """eps_hat_s of the picture under its prompt minus that of the source under its text, of one eps and one t: one call."""
        source = edited(sample)
        xt = torch.cat([sample.xt, sample.schedule.noised(source.x0, sample.eps, sample.t)])
        said = guided(prior, xt, sample.t.repeat(2), sample.told.then(source.told), self.guidance)
        target, origin = said.eps.chunk(2)
        return target - origin


def surrogate(x0: Float[Tensor, "b ..."], direction: Float[Tensor, "b ..."], view: Int[Tensor, "b"]) -> Float[Tensor, ""]:
    """A scalar whose gradient in x0 is ``direction``, averaged over the views of each particle.

    Only rows of the same particle share the average, so what a particle receives never depends on how many others there are.
    The value itself means nothing and is never logged.
    """
    views = (view[:, None] == view[None]).sum(1)
    return ((direction.detach() * x0).flatten(1).sum(1) / views.to(x0)).sum()
