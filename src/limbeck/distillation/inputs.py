"""The frame of every method: what it is given for a step, what it answers, what it remembers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.tensors import to_device
from limbeck.graphics.cameras.camera import Camera


@dataclass(frozen=True)
class EditSource:
    """What an edit starts from: x0 of each row before the first step, and the text that describes it."""

    x0: Float[Tensor, "b ..."]
    conditions: Conditions


@dataclass(frozen=True)
class StepInputs:
    """Everything drawn for one step, before any network is called.

    x0 ``[B, ...]`` carries the graph of the render; t ``[B]``; eps as x0; told the conditions of each row; view the particle
    index ``[B]``; rng the step's generator; step and steps where the run stands. image: what was rendered, where that is an image
    and not x0 itself. source: of an edit. camera: each row was seen by, which is a critic's business and no method's. drawn: t on
    the CPU, where it was drawn.
    """

    x0: Float[Tensor, "b ..."]
    t: Float[Tensor, "b"]
    eps: Float[Tensor, "b ..."]
    conditions: Conditions
    particle: Int[Tensor, "b"]
    rng: torch.Generator
    schedule: NoiseSchedule
    step: int = 0
    steps: int = 1
    image: Float[Tensor, "b 3 h w"] | None = None
    source: EditSource | None = None
    camera: Camera | None = None
    drawn_t: Float[Tensor, "b"] | None = None

    @cached_property
    def t_cpu(self) -> Float[Tensor, "b"]:
        """t on the CPU: what is asked about which rows is decided by it, and the device is not waited for."""
        return self.t.cpu() if self.drawn_t is None else self.drawn_t

    @cached_property
    def xt(self) -> Float[Tensor, "b ..."]:
        """x_t of the detached x0 and the drawn noise."""
        return self.schedule.add_noise(self.x0.detach(), self.eps, self.t)

    def with_pose(self, told: Condition) -> Condition:
        """The rows of ``told`` with the pose each row of the sample was seen by, if by any; for critics."""
        return (
            told
            if self.camera is None
            else replace(told, pose=to_device(self.camera.pose.float(), told.data.device))
        )

    def select(self, rows: Int[Tensor, "r"]) -> StepInputs:
        """Some of the rows, by their places on the CPU; the generator is shared."""
        at = to_device(rows, self.x0.device)
        image = None if self.image is None else self.image[at]
        source = (
            None
            if self.source is None
            else EditSource(self.source.x0[at], self.source.conditions[at])
        )
        return replace(
            self,
            x0=self.x0[at],
            t=self.t[at],
            eps=self.eps[at],
            conditions=self.conditions[at],
            particle=self.particle[rows],
            image=image,
            source=source,
            camera=None if self.camera is None else self.camera[rows],
            drawn_t=None if self.drawn_t is None else self.drawn_t[rows],
        )

    def random_later_t(self, share: float, t_min: float) -> Float[Tensor, "b"]:
        """Times t + U[0, share (t - t_min)], at most 1, drawn anew by the step's generator (ASD, DSD); on the CPU."""
        t = self.t_cpu
        reach = torch.minimum((share * (t - t_min)).clamp_min(0), 1 - t)
        return self.schedule.snap(t + reach * torch.rand(len(reach), generator=self.rng).to(reach))


def refuse_loading(model: str) -> Prior:
    """The loader of a start that was made by hand."""
    raise ValueError(f"no way to load {model!r} here: give Start a load")


@dataclass(frozen=True)
class SetupContext:
    """What a state may need to be made: how many particles there are in all, how many prompts they belong to, the seed."""

    particles: int
    num_prompts: int
    seed: int
    x0: Float[Tensor, "n ..."]  #: first x0 of every particle, detached
    prompts: tuple[
        str, ...
    ] = ()  #: the prompts; particle i belongs to prompt i // (particles / prompts)
    source_prompts: tuple[
        str, ...
    ] = ()  #: of an edit: what each prompt's picture shows before it, one per prompt
    negative_prompt: str = ""  #: what guidance leads away from
    load: Callable[[str], Prior] = refuse_loading  #: another model by name, where this one is
    view_prompts: tuple[
        str, ...
    ] = ()  #: the prompts with the words of their sides, where they have some
    has_cameras: bool = False  #: whether the particles are looked at by cameras

    def prompt_of(self, view: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """The prompt of each particle."""
        return view // (self.particles // self.num_prompts)
