"""Inputs of a method: the context at setup and the inputs of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.prompts import extend_prompt
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.row_views import RowViews
from limbeck.graphics.cameras.camera import Camera
from limbeck.system.random import RowRandom


@dataclass(frozen=True)
class EditSource:
    """What an edit starts from.

    Attributes:
        x0: source x0 of each row.
        conditions: conditions of the source prompt of each row.
    """

    x0: Float[Tensor, "b ..."]
    conditions: Conditions


@dataclass(frozen=True)
class StepInputs:
    """Inputs of one step, drawn before any network call.

    Attributes:
        x0: rendered x0 ``[B, ...]``, with the graph of the render.
        t: time of each row ``[B]``.
        eps: noise of each row, of the shape of x0.
        conditions: conditions of each row.
        particle: particle index of each row ``[B]``.
        rng: random numbers of each row, for further draws.
        schedule: noise schedule of the prior.
        step: current step, from 0.
        steps: number of steps of the run.
        image: rendered image of each row. None: the representation renders x0 itself.
        source: source of each row of an edit. None: no edit.
        camera: camera of each row, for critics and noise; methods must not read it. None: a 2D
            representation.
        depth: depth of each render along the axis of its camera, for noise. None: not rendered.
        alpha: opacity of each render, for noise. None: not rendered.
        drawn_t: t on the CPU as it was drawn. None: t is copied from its device when needed.
        exact_t: t on the CPU before it was rounded to a time of the schedule. None: it was not.
        views: view prompt of each row, for texts of the method. None: prompts have no views.
    """

    x0: Float[Tensor, "b ..."]
    t: Float[Tensor, "b"]
    eps: Float[Tensor, "b ..."]
    conditions: Conditions
    particle: Int[Tensor, "b"]
    rng: RowRandom
    schedule: NoiseSchedule
    step: int = 0
    steps: int = 1
    image: Float[Tensor, "b 3 h w"] | None = None
    source: EditSource | None = None
    camera: Camera | None = None
    depth: Float[Tensor, "b 1 y x"] | None = None
    alpha: Float[Tensor, "b 1 y x"] | None = None
    drawn_t: Float[Tensor, "b"] | None = None
    exact_t: Float[Tensor, "b"] | None = None
    views: RowViews | None = None

    @cached_property
    def t_cpu(self) -> Float[Tensor, "b"]:
        """t on the CPU. Use it for control flow so that no device sync is needed."""
        return self.t.cpu() if self.drawn_t is None else self.drawn_t

    @cached_property
    def xt(self) -> Float[Tensor, "b ..."]:
        """x_t of the detached x0 and the drawn noise."""
        return self.schedule.add_noise(self.x0.detach(), self.eps, self.t)

    def with_pose(self, condition: Condition) -> Condition:
        """Add the camera pose of each row, for camera-conditioned critics.

        Unchanged without cameras, and where the condition has a pose already.
        """
        if self.camera is None or condition.pose is not None:
            return condition
        pose = to_device(self.camera.pose.float(), condition.data.device)
        return replace(condition, pose=pose)

    def select(self, rows: Int[Tensor, "r"]) -> StepInputs:
        """Some of the rows, by indices on the CPU; a row takes its random numbers along.

        Rows of a group of views must stay together and in their order.
        """
        device_rows = to_device(rows, self.x0.device)
        image = camera = source = drawn_t = None
        if self.image is not None:
            image = self.image[device_rows]
        if self.source is not None:
            source = EditSource(self.source.x0[device_rows], self.source.conditions[device_rows])
        if self.camera is not None:
            camera = self.camera[rows]
        if self.drawn_t is not None:
            drawn_t = self.drawn_t[rows]
        return replace(
            self,
            x0=self.x0[device_rows],
            t=self.t[device_rows],
            eps=self.eps[device_rows],
            conditions=self.conditions[device_rows],
            particle=self.particle[rows],
            rng=self.rng[rows],
            image=image,
            source=source,
            camera=camera,
            depth=None if self.depth is None else self.depth[device_rows],
            alpha=None if self.alpha is None else self.alpha[device_rows],
            drawn_t=drawn_t,
            exact_t=None if self.exact_t is None else self.exact_t[rows],
            views=None if self.views is None else self.views[rows],
        )

    def random_later_t(self, fraction: float, t_min: float) -> Float[Tensor, "b"]:
        """Draw later times t + U[0, fraction (t - t_min)], at most 1 (ASD, DSD).

        Args:
            fraction: largest shift, as a fraction of t - t_min.
            t_min: time at and below which nothing is added.

        Returns:
            One time per row, on the CPU.
        """
        t = self.t_cpu
        max_shift = torch.minimum((fraction * (t - t_min)).clamp_min(0), 1 - t)
        uniform = self.rng.per_group.uniform("later t").to(t)
        return self.schedule.snap(t + max_shift * uniform)


def _refuse_loading(model: str) -> Prior:
    """Loader of a context that was made without one."""
    raise ValueError(f"cannot load {model!r}: this SetupContext has no load_prior")


def _without_views(text: str) -> tuple[str, ...]:
    """The variants of a text in a run without views."""
    return (text,)


@dataclass(frozen=True)
class SetupContext:
    """What a method may need to build its state.

    Attributes:
        particles: number of particles of all prompts.
        num_prompts: number of prompts; particle i belongs to prompt i // (particles / num_prompts).
        seed: seed of the run.
        x0: initial x0 of every particle ``[N, ...]``, detached.
        prompts: the prompts.
        source_prompts: source prompts of an edit, one per prompt. Empty: no edit.
        negative_prompt: prompt that guidance moves away from.
        load_prior: loads another prior by its name, onto the device of this one.
        view_prompts: the prompts with every view word, if they have view words.
        has_cameras: whether the particles are rendered by cameras.
        texts_by_view: the variants of a text with every view word; one, if there are no views.
        pretrain: whether what is learned before the first step is needed. False: the state is
            loaded from a checkpoint, or the results of the run do not count.
        fresh_samples: whether every step renders new samples, so that nothing of a particle lasts.
        draws_prompts: whether these samples are of other prompts than those of the particles.
        is_augmented: whether every step shows another view of a drawing.
        interpolates_prompts: whether a row may be conditioned on a mixture of the prompts of two
            views.
    """

    particles: int
    num_prompts: int
    seed: int
    x0: Float[Tensor, "n ..."]
    prompts: tuple[str, ...] = ()
    source_prompts: tuple[str, ...] = ()
    negative_prompt: str = ""
    load_prior: Callable[[str], Prior] = _refuse_loading
    view_prompts: tuple[str, ...] = ()
    has_cameras: bool = False
    texts_by_view: Callable[[str], tuple[str, ...]] = _without_views
    pretrain: bool = True
    fresh_samples: bool = False
    draws_prompts: bool = False
    is_augmented: bool = False
    interpolates_prompts: bool = False

    def require_lasting_samples(self, what: str) -> None:
        """Check that a particle stays the same sample from step to step.

        Args:
            what: what keeps something of each particle, for the message.

        Raises:
            ValueError: if every step renders new samples, or augments them.
        """
        if self.is_augmented:
            raise ValueError(
                f"{what} of each particle, but the augmentation shows another part of it in every "
                "step: leave --augmentation out, or use another method, such as --method sds"
            )
        if self.fresh_samples:
            raise ValueError(
                f"{what} of each particle, but a generator renders new samples in every step: use "
                "another method, such as --method dmd2"
            )

    def require_prompts_of_particles(self, what: str) -> None:
        """Check that the samples of a step are of the prompts of its particles.

        Args:
            what: what goes by these prompts, for the message.

        Raises:
            ValueError: if other prompts are drawn.
        """
        if self.draws_prompts:
            raise ValueError(
                f"{what} the prompts of the run, but the generator draws captions: leave out its "
                "captions, or use another method, such as --method dmd2"
            )

    def extended_prompts(self, suffix: str) -> list[str]:
        """Every prompt with a suffix, in 3D in its variants of the views.

        Args:
            suffix: text to append as it is, with its comma or space.

        Raises:
            ValueError: if the texts of the prompts are not known.
        """
        if len(self.prompts) != self.num_prompts:
            raise ValueError(
                f"the method extends the prompts and needs the texts of all {self.num_prompts}, "
                f"but the setup has {len(self.prompts)}"
            )
        extended = (extend_prompt(prompt, suffix) for prompt in self.prompts)
        return [view for text in extended for view in self.texts_by_view(text)]

    def extended_source_prompts(self, suffix: str) -> list[str]:
        """Every source prompt of an edit with a suffix.

        Args:
            suffix: text to append as it is, with its comma or space.
        """
        return [extend_prompt(prompt, suffix) for prompt in self.source_prompts]

    def prompt_index(self, particle: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """Index of the prompt of each particle."""
        return particle // (self.particles // self.num_prompts)
