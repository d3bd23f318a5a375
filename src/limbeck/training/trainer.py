"""The training loop: one step of any method on any representation, and its resumable state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.config.own_errors import naming_own_code
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.own_results import (
    check_own_metrics,
    check_own_object,
    check_own_tensor,
    check_own_times,
)
from limbeck.distillation.state import State
from limbeck.distillation.timesteps.base import training_progress
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.priors.divided_calls import divide_calls
from limbeck.priors.loading import load
from limbeck.representations.base import Render
from limbeck.representations.primitives import check_render_cost
from limbeck.system.finite import FiniteMonitor, NonFiniteError
from limbeck.system.optimizer_state import load_optimizer, optimizer_tensors
from limbeck.system.processes import average_gradients, dividing
from limbeck.system.random import RowRandom
from limbeck.training.augmented_renders import augment_render, check_augmentation
from limbeck.training.collapse import opacity_metrics
from limbeck.training.control import control_of_render
from limbeck.training.critic_steps import train_critic_only
from limbeck.training.experiment import Experiment
from limbeck.training.image_gradients import check_image_transform, transform_image_gradients
from limbeck.training.image_prompt import check_image_prompt, with_image_prompt
from limbeck.training.known_view import known_view_of
from limbeck.training.own_broadcasts import refusing_row_broadcasts
from limbeck.training.own_results import check_own_groups, check_own_render, own_origins
from limbeck.training.profile import Profile
from limbeck.training.reference_view import read_reference_view
from limbeck.training.row_draws import draw_rows
from limbeck.training.run_prompts import RunPrompts
from limbeck.training.source_images import RunSource, check_source_images, source_prompts_of
from limbeck.training.step import Step
from limbeck.training.step_gradient import computed_values, gradient_of_step, surrogates
from limbeck.training.step_metrics import scheduled_options, step_metrics
from limbeck.training.view_groups import check_view_groups
from limbeck.training.warm_start import build_representation


class Run:
    """Particles, optimizer and critic of an experiment, advanced one step at a time.

    Args:
        experiment: the options of the run.
        prior: the diffusion model.
        pretrain: as in ``SetupContext``; without it, particles are not initialized from another run
            either, which need no longer exist then.

    Attributes:
        experiment: the options of the run.
        prior: the diffusion model that is distilled.
        cameras: camera sampler of the run.
        reference: image of the object that all particles reproduce; None if there is none.
        known_view: the same image as a view that the model is given; None if it is given none.
        prompts: the encoded prompts.
        representation: the particles.
        optimizer: optimizer of the particles.
        peak_lrs: learning rate of each parameter group before the decay.
        source: what an edit starts from, one row per particle; None if the run is no edit.
        state: state of the method, such as its critic.
        step: number of steps done.
        profile: time and operations by part.
        monitor: check for non-finite gradients.
    """

    def __init__(self, experiment: Experiment, prior: Prior, pretrain: bool = True):
        with naming_own_code():
            self._build(experiment, prior, pretrain)

    def _build(self, experiment: Experiment, prior: Prior, pretrain: bool) -> None:
        e = experiment
        check_view_groups(e, prior)
        check_source_images(e, prior)
        prior = divide_calls(prior)
        self.experiment, self.prior = e, prior
        self.cameras = e.camera_sampler
        self.reference = read_reference_view(e, prior.device)
        if not isinstance(self.cameras, NoCamera):
            check_image_prompt(prior, self.reference)
        self.known_view = known_view_of(prior, self.reference)
        self.prompts = RunPrompts(e, prior, self.reference)
        # what an edit starts from is in no checkpoint
        is_initialized = pretrain or e.source_prompts
        config = e.representation if is_initialized else e.representation.uninitialized
        self.representation = build_representation(config, prior, e.total, e.run_seed, e.prompts)
        self.representation.set_prompts(prior, e.prompts)
        if not e.draws_all:
            self.representation.separate_particles()
        check_render_cost(self.representation, e.rows_per_step, e.steps, "the run")
        groups = check_own_groups(self.representation, self.representation.param_groups())
        self.optimizer = e.optimizer.build(groups)
        check_own_object(e.optimizer, ".build", self.optimizer, ("param_groups", "step"))
        self.peak_lrs = [group["lr"] for group in self.optimizer.param_groups]
        request = self.eval_request(1)
        self.source: RunSource | None = None
        with torch.no_grad():
            render = self.render(request)
            check_image_transform(e, render)
            check_augmentation(e, render)
            x0 = self.encode(render)
            source_prompts = source_prompts_of(e, prior)
            if source_prompts:
                source_x0 = self.encode(self.representation.render_source(request))
                self.source = RunSource(prior, self.prompts, source_x0, source_prompts)
        self.prompts.check_distinct()
        context = self._setup_context(x0, source_prompts, pretrain)
        self.state: State = e.method.init(prior, context)
        check_own_object(e.method, ".init", self.state, ("tensors", "load"))
        self.step = 0
        self.profile = Profile(prior.device, prior.call_counter)
        deferred = prior.device.startswith("cuda")
        self.monitor = FiniteMonitor(deferred, own_origins(e, self.representation))
        if self.reference is not None:
            self.reference.check(render, self.render)

    def _setup_context(
        self, x0: Float[Tensor, "n ..."], source_prompts: tuple[str, ...], pretrain: bool
    ) -> SetupContext:
        """What the method builds its state from."""
        e, prior = self.experiment, self.prior
        return SetupContext(
            particles=e.total,
            num_prompts=len(e.prompts),
            seed=e.run_seed,
            x0=x0,
            prompts=e.prompts,
            source_prompts=source_prompts,
            negative_prompt=e.negative_prompt,
            load_prior=partial(load, device=prior.device, precision=e.precision, runtime=e.runtime),
            view_prompts=self.prompts.view_prompts,
            has_cameras=not isinstance(self.cameras, NoCamera),
            texts_by_view=self.prompts.texts_by_view,
            pretrain=pretrain,
            fresh_samples=e.representation.fresh_samples,
            is_augmented=e.augmentation.changes_images,
            draws_prompts=e.representation.draws_prompts,
            interpolates_prompts=e.camera_sampler.interpolates_prompts,
        )

    def render(self, request: RenderRequest) -> Render:
        """Return renders of the particles, checked if the representation is one of the user."""
        render = self.representation.render(request)
        check_own_render(self.representation, render, len(request.particle), self.prior)
        return render

    def encode(self, render: Render) -> Float[Tensor, "b ..."]:
        """Return x0 of a render: its latents, or its images encoded by the prior."""
        return self.prior.encode(render.image) if render.space == "image" else render.image

    def eval_request(self, num_cameras: int) -> RenderRequest:
        """Return a request for every particle from fixed cameras, for showing and scoring results.

        Args:
            num_cameras: number of cameras per particle; ignored by representations without cameras.
        """
        camera = self.cameras.eval_cameras(num_cameras)
        particle = torch.arange(self.experiment.total)
        if camera is None:
            return RenderRequest(particle)
        rows = torch.arange(num_cameras).repeat(self.experiment.total)
        return RenderRequest(particle.repeat_interleave(num_cameras), camera[rows])

    def conditions_for(
        self, particle: Int[Tensor, "b"], camera: Camera | None, render: Render
    ) -> Conditions:
        """Return the conditions of rows: prompts, and what the model hears of their renders.

        Args:
            particle: particle of each row.
            camera: camera of each row; None for 2D representations.
            render: their renders.
        """
        conditions = self.prompts.conditions_for(particle, camera)
        if render.condition is not None:
            conditions = replace(conditions, pos=render.condition)
        if self.source is not None:
            conditions = self.source.shown(conditions, particle)
        control = control_of_render(self.prior, render, camera)
        if control is not None:
            conditions = conditions.with_control(control)
        if camera is None:
            return conditions
        return with_image_prompt(conditions, self.prior, self.reference, render)

    def advance(self) -> Step:
        """Run one step of the experiment.

        Raises:
            NonFiniteError: if a value is not finite, before it changes anything. On CUDA, where the
                host runs ahead, the particles are not changed either, but it is
                ``monitor.raise_if_bad`` that raises the error.
        """
        with dividing(), naming_own_code():
            return self._advance()

    def _advance(self) -> Step:
        e = self.experiment
        if count := self.representation.critic_only_steps(self.step):
            method = e.method.at(training_progress(self.step, e.steps))
            rng = draw_rows(e, self.step)
            samples = self._samples_for_critic
            with self.profile.part("critic"):
                train_critic_only(method, self.prior, self.state, count, rng, samples)
        return self.apply_gradient(self.compute_gradient(self.step))

    def compute_gradient(self, step: int) -> Step:
        """Compute the gradient of a step at the present parameters; it is left in their ``grad``.

        Args:
            step: number of the step, from 0, which determines all its draws.

        Raises:
            NonFiniteError: as for ``advance``.
        """
        e, prior, profile = self.experiment, self.prior, self.profile
        rng, noise = draw_rows(e, step), e.noise_of_run
        method, particle = e.method.at(training_progress(step, e.steps)), rng.particle
        camera, known = self._sample_cameras(rng)
        progress = step / max(e.steps, 1)
        with profile.part("render"):
            render = self.render(RenderRequest(particle, camera, rng, progress))
        transform_image_gradients(e, render)
        with profile.part("encode"):
            shown = augment_render(e, render, rng)
            x0 = self.encode(shown)
        t = e.timesteps(step, e.steps, len(particle), prior.schedule, rng)
        check_own_times(e.timesteps, t, len(particle))
        eps = noise(rng, tuple(x0.shape[1:]))
        check_own_tensor(noise, "", eps, x0.shape, "noise of the shape of x0, for each row")
        inputs = self.step_inputs(shown, x0, t, eps, particle, camera, rng)
        if self.known_view is not None and known is not None:
            given = self.known_view.given(inputs.conditions, known, render, prior.encode)
            inputs = replace(inputs, conditions=given)
        broadcasts = nullcontext() if step else refusing_row_broadcasts(e, x0.shape)
        with profile.part("method"), torch.no_grad(), broadcasts:
            inputs = replace(inputs, eps=noise.refine(prior, inputs))
            check_own_tensor(noise, ".refine", inputs.eps, x0.shape, "noise for each row")
            gradient = gradient_of_step(e, prior, method, inputs, self.state, known)
        regularizers = self._regularizers(particle, progress, render)
        # rows of a generator are samples of their own, not views to be averaged over
        sample = torch.arange(len(x0)) if e.representation.fresh_samples else particle
        losses = [*surrogates(gradient, inputs, sample), *regularizers.values()]
        with profile.part("backward"):
            torch.stack(losses).sum().backward()
        average_gradients(self.representation.parameters())
        metrics = step_metrics(self.representation, gradient, inputs.t)
        metrics |= {name: loss.detach() for name, loss in regularizers.items()}
        metrics |= opacity_metrics(render)
        self._check_finite(inputs, computed_values(gradient, regularizers), metrics["grad_norm"])
        return Step(step + 1, inputs, gradient.x0, metrics)

    def apply_gradient(self, computed: Step) -> Step:
        """Update the particles and what the method learns, with the gradient in ``grad``.

        Args:
            computed: what ``compute_gradient`` returned for the present step.

        Returns:
            The same with all metrics.
        """
        e, step = self.experiment, self.step
        method = e.method.at(training_progress(step, e.steps))
        self._set_lrs()
        with self.profile.part("optimizer"):
            self.optimizer.step()
            self.representation.after_step(step, e.steps, self.optimizer)
            self.optimizer.zero_grad(set_to_none=True)
        with self.profile.part("critic"):
            fitted = method.fit(self.prior, computed.inputs, self.state)
            check_own_metrics(method, ".fit", fitted)
        scheduled = scheduled_options(e, step, self.prior.device)
        self.step += 1
        return replace(computed, metrics=computed.metrics | fitted | scheduled)

    def _regularizers(
        self, particle: Int[Tensor, "b"], progress: float, render: Render
    ) -> dict[str, Float[Tensor, ""]]:
        """The weighted losses of the representation and of the reference view, by name."""
        regularizers = self.representation.regularize(render, progress)
        check_own_metrics(self.representation, ".regularize", regularizers)
        if self.reference is None:
            return regularizers
        with self.profile.part("render"):
            view = self.render(self.reference.request(particle, progress, render))
            return {**regularizers, **self.reference.losses(view)}

    def _sample_cameras(self, rng: RowRandom) -> tuple[Camera | None, Bool[Tensor, "b"] | None]:
        """Cameras of the rows of a step, and the rows whose view the model is given."""
        camera = self.cameras.sample(len(rng), rng)
        if self.known_view is None or camera is None:
            return camera, None
        return self.known_view.place(camera, rng)

    def _set_lrs(self) -> None:
        factor = self.experiment.optimizer.lr_factor(self.step, self.experiment.steps)
        for group, peak in zip(self.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak * factor

    def _samples_for_critic(self, rng: RowRandom) -> StepInputs:
        """New samples for a training step of the critic alone, which draws its own t and eps."""
        camera = self.cameras.sample(len(rng), rng)
        progress = self.step / max(self.experiment.steps, 1)
        render = self.render(RenderRequest(rng.particle, camera, rng, progress))
        x0 = self.encode(render)
        t, eps = torch.zeros(len(rng)), torch.zeros_like(x0)
        return self.step_inputs(render, x0, t, eps, rng.particle, camera, rng)

    def step_inputs(
        self,
        render: Render,
        x0: Float[Tensor, "b ..."],
        t: Float[Tensor, "b"],
        eps: Float[Tensor, "b ..."],
        particle: Int[Tensor, "b"],
        camera: Camera | None,
        rng: RowRandom,
    ) -> StepInputs:
        """Return everything drawn for a step, t and eps on the device of x0, with the conditions.

        Args:
            render: the renders of the rows.
            x0: their x0.
            t: drawn time of each row.
            eps: drawn noise of each row.
            particle: particle of each row.
            camera: camera of each row; None for 2D representations.
            rng: random numbers of the rows.
        """
        drawn_t = self.prior.schedule.snap(t)
        return StepInputs(
            x0=x0,
            t=to_device(drawn_t, x0.device),
            eps=to_device(eps, x0.device).to(x0),
            conditions=self.conditions_for(particle, camera, render),
            particle=particle,
            rng=rng,
            schedule=self.prior.schedule,
            step=rng.step,
            steps=self.experiment.steps,
            image=render.image if render.space == "image" else None,
            source=None if self.source is None else self.source.rows(particle),
            camera=camera,
            depth=render.depth,
            alpha=render.alpha,
            drawn_t=drawn_t,
            exact_t=t,
            views=self.prompts.views_for(len(particle), camera),
        )

    def _check_finite(
        self, inputs: StepInputs, values: dict[str, Tensor], grad_norm: Tensor
    ) -> None:
        drawn = {"x0": inputs.x0.detach(), "t": inputs.t, "eps": inputs.eps}
        try:
            self.monitor.update(inputs.step, grad_norm, drawn | values)
        except NonFiniteError:
            self.optimizer.zero_grad(set_to_none=True)
            raise
        if self.monitor.deferred:  # as torch's GradScaler does for fused optimizers
            self.optimizer.found_inf = self.monitor.found_inf  # type: ignore[attr-defined]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything the next step depends on besides the experiment, by name."""
        groups = {
            "representation": self.representation.state_dict(),
            "state": self.state.tensors(),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        return {f"{head}.{k}": v for head, group in groups.items() for k, v in group.items()}

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Resume from a checkpoint.

        Args:
            tensors: what ``tensors`` returned.
            step: number of steps that were done then.
        """

        def under(head: str) -> dict[str, Tensor]:
            return {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}

        self.representation.load_state_dict(under("representation."))
        load_optimizer(self.optimizer, under("optimizer."))
        self.state.load(under("state."))
        self.step = step


def steps(experiment: Experiment, prior: Prior) -> Iterator[Step]:
    """Run an experiment as a generator, for code that inspects or changes a run between steps."""
    run = Run(experiment, prior)
    while run.step < experiment.steps:
        yield run.advance()
