"""The loop: one step of any method on any representation, and the state that makes a resumed run bit-identical."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.inputs import EditSource, SetupContext, StepInputs
from limbeck.distillation.state import State
from limbeck.distillation.surrogate import surrogate
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.base import LatentAndImageGradient
from limbeck.priors.loading import load
from limbeck.system.finite import FiniteMonitor, NonFiniteError
from limbeck.system.optimizer_state import load_optimizer, optimizer_tensors
from limbeck.training.collapse import covered
from limbeck.training.experiment import Experiment
from limbeck.training.profile import Profile
from limbeck.training.warm_start import build_representation


def generator(seed: int, step: int) -> torch.Generator:
    """The only source of randomness of a step, on the CPU so that every device draws the same."""
    return torch.Generator().manual_seed(
        seed * 1_000_003 + step + 500_009
    )  # never the seed itself, which draws the start


@dataclass(frozen=True)
class Step:
    """What one step did. ``gradient`` is w(t) times the direction; figures are scalars still on the device."""

    step: int
    sample: StepInputs
    gradient: Float[Tensor, "b ..."]
    metrics: dict[str, Tensor]


def draw_particles(experiment: Experiment, rng: torch.Generator) -> Int[Tensor, "b"]:
    """The particle of every row of a step, each as often as it is looked at."""
    e, everyone = experiment, torch.arange(experiment.total)
    some = (
        everyone
        if e.batch_size in (0, e.total)
        else torch.randperm(e.total, generator=rng)[: e.batch_size].sort().values
    )
    return some.repeat_interleave(e.camera_sampler.per_particle)


class Run:
    """Particles, optimiser and critic of an experiment under way."""

    def __init__(self, experiment: Experiment, prior: Prior):
        e = experiment
        self.experiment, self.prior = e, prior
        self.cameras = e.camera_sampler
        self.num_views = len(self.cameras.prompts_by_view(""))
        texts = tuple(text for prompt in e.prompts for text in self.cameras.prompts_by_view(prompt))
        # all at once: text encoders are loaded to be asked
        plain = prior.condition((*texts, *e.prompts))[len(texts) :] if self.num_views > 1 else None
        self.told = self._encode_prompts(texts)
        if plain is not None:
            bare = plain[
                torch.arange(len(e.prompts)).repeat_interleave(self.num_views).to(prior.device)
            ]
            self.told = replace(self.told, pos=replace(self.told.pos, view_free=bare))
        self.representation = build_representation(e.representation, prior, e.total, e.seed)
        self.optimizer = e.optimizer.build(self.representation.param_groups())
        self.peak_lrs = [group["lr"] for group in self.optimizer.param_groups]
        everyone = self.eval_request(1)
        with torch.no_grad():
            first = self._x0(self.representation.render(everyone))
            before = (
                self._x0(self.representation.render_source(everyone)) if e.source_prompt else None
            )
        self.source = (
            EditSource(before, self._encode_prompts(e.source_prompts))
            if before is not None
            else None
        )
        other = partial(load, device=prior.device, precision=e.precision, runtime=e.runtime)
        seen = everyone.camera is not None
        start = SetupContext(
            e.total,
            len(e.prompts),
            e.seed,
            first,
            e.prompts,
            e.source_prompts,
            e.negative_prompt,
            other,
            texts,
            seen,
        )
        self.state: State = e.method.init(prior, start)
        self.step = 0
        self.profile, self.monitor = (
            Profile(prior.device, prior.meter),
            FiniteMonitor(prior.device.startswith("cuda")),
        )

    def _x0(self, render) -> Tensor:
        return self.prior.encode(render.image) if render.space == "image" else render.image

    def _encode_prompts(self, texts: tuple[str, ...]) -> Conditions:
        """One row per text, with what guidance leads away from."""
        e, count = self.experiment, len(texts)
        negative = self.prior.condition([e.negative_prompt] * count)
        if not e.perp_neg:
            return Conditions(self.prior.condition(texts), negative, denoise_steps=e.denoise_steps)
        weight = torch.full((count,), e.perp_neg, device=self.prior.device)
        return Conditions(
            self.prior.condition(texts),
            self.prior.condition([""] * count),
            ((negative, weight),),
            e.denoise_steps,
        )

    def _rows(self, view: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """The prompt of each particle."""
        return to_device(view // self.experiment.particles, self.prior.device)

    def eval_request(self, each: int) -> RenderRequest:
        """Every particle, from ``each`` fixed sides if it has any; what results are shown by."""
        camera = self.cameras.eval_cameras(each)
        if camera is None:
            return RenderRequest(torch.arange(self.experiment.total))
        everyone = torch.arange(self.experiment.total).repeat_interleave(each)
        return RenderRequest(everyone, camera[torch.arange(each).repeat(self.experiment.total)])

    def conditions_for(self, view: Int[Tensor, "b"], camera: Camera | None = None) -> Conditions:
        """The conditions of particles, with the words of the side that is seen."""
        if self.num_views == 1:
            return self.told[self._rows(view)]
        first = self._rows(view) * self.num_views
        share, place = to_device(self.cameras.view_weights(camera, len(view)), first.device).topk(
            2, dim=1
        )
        conditions = self.told[first + place[:, 0]]
        if self.cameras.interpolates_prompts:
            conditions = replace(
                conditions, pos=conditions.pos.lerp(self.told.pos[first + place[:, 1]], share[:, 1])
            )
        moved = [
            (to_device(at, first.device), to_device(weight, first.device))
            for at, weight in self.cameras.perp_neg_weights(camera)
        ]
        away = [(self.told.pos[first + at], weight) for at, weight in moved]
        return replace(conditions, perp_neg=(*conditions.perp_neg, *away))

    def _source_of(self, view: Int[Tensor, "b"]) -> EditSource | None:
        """What particles are edits of."""
        if self.source is None:
            return None
        at = to_device(view, self.source.x0.device)
        return EditSource(self.source.x0[at], self.source.conditions[self._rows(view)])

    def advance(self) -> Step:
        """One step of the experiment; raises ``NonFiniteError`` before anything is changed by a value that is not finite.

        On CUDA, where the host runs ahead, particles are not changed either, but it is ``watch.ask`` that raises.
        """
        e, prior, cost = self.experiment, self.prior, self.profile
        rng = generator(e.seed, self.step)
        view = draw_particles(e, rng)
        camera = self.cameras.sample(len(view), rng)
        progress = self.step / max(e.steps, 1)
        for group, rate in zip(self.optimizer.param_groups, self.peak_lrs, strict=True):
            group["lr"] = rate * e.optimizer.factor(self.step, e.steps)
        with cost.of("render"):
            render = self.representation.render(RenderRequest(view, camera, rng, progress))
        with cost.of("encode"):
            x0 = self._x0(render)
        drawn_t = prior.schedule.snap(
            e.timesteps(self.step, e.steps, len(view), prior.schedule, rng)
        )
        t = to_device(drawn_t, x0.device)
        eps = to_device(e.noise(view, tuple(x0.shape[1:]), self.step, e.seed, rng), x0.device).to(
            x0
        )
        row = to_device(view, x0.device)
        image = render.image if render.space == "image" else None
        told, source = self.conditions_for(view, camera), self._source_of(view)
        asked = StepInputs(
            x0,
            t,
            eps,
            told,
            view,
            rng,
            prior.schedule,
            self.step,
            e.steps,
            image,
            source,
            camera,
            drawn_t,
        )
        with cost.of("method"), torch.no_grad():
            sample = replace(asked, eps=e.noise.refine(prior, asked))
            said = e.method(prior, sample, self.state)
            direction = said if not isinstance(said, LatentAndImageGradient) else said.x0
            weight = e.weight(prior.schedule, t)
            gradient, beside = self._weighed(said, weight)
        rules = self.representation.regularize(render, progress)
        terms = [surrogate(x0, gradient, row), *rules.values()]
        if beside is not None and image is not None:
            terms.append(surrogate(image, beside, row))
        with cost.of("backward"):
            torch.stack(terms).sum().backward()
        figures = self._figures(sample, direction, gradient, weight) | {
            name: term.detach() for name, term in rules.items()
        }
        figures |= covered(render)
        self._check(sample, gradient, figures["parameters"])
        with cost.of("optimiser"):
            self.optimizer.step()
            self.representation.after_step(self.step, e.steps, self.optimizer)
            self.optimizer.zero_grad(set_to_none=True)
        with cost.of("critic"):
            figures |= e.method.fit(prior, sample, self.state)
        self.step += 1
        return Step(self.step, sample, gradient, figures)

    def _figures(
        self, sample: StepInputs, direction: Tensor, gradient: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        norms = torch._foreach_norm(
            [p.grad for p in self.representation.parameters() if p.grad is not None]
        )
        return {
            "residual": direction.square().mean().sqrt(),
            "gradient": gradient.square().mean().sqrt(),
            "parameters": torch.stack(norms).norm(),
            "weight": weight.mean(),
            "t": sample.t.mean(),
        }

    def _weighed(
        self, said: Tensor | LatentAndImageGradient, weight: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """What is to be descended in x0 space and, where the method says so, in that of the image: w(t) times the direction, as the
        rule of gradients has it. The rule is of a row as a whole, so that it keeps the proportion of the two."""
        rule = partial(self.experiment.grad_transform, step=self.step, steps=self.experiment.steps)
        if not isinstance(said, LatentAndImageGradient):
            return rule(expand(weight, said) * said), None
        parts = [expand(weight, part) * part for part in (said.x0, said.image)]
        whole = rule(torch.cat([part.flatten(1) for part in parts], 1)).split(
            [part[0].numel() for part in parts], 1
        )
        return whole[0].view_as(said.x0), whole[1].view_as(said.image)

    def _check(self, sample: StepInputs, gradient: Tensor, norm: Tensor) -> None:
        inputs = {"x0": sample.x0.detach(), "t": sample.t, "eps": sample.eps, "gradient": gradient}
        try:
            self.monitor.see(self.step, norm, inputs)
        except NonFiniteError:
            self.optimizer.zero_grad(set_to_none=True)
            raise
        if self.monitor.lazy:
            self.optimizer.found_inf = self.monitor.bad  # type: ignore[attr-defined]  # as torch's GradScaler tells it

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on, besides the experiment."""
        out = {f"representation.{k}": v for k, v in self.representation.state_dict().items()}
        out |= {f"state.{k}": v for k, v in self.state.tensors().items()}
        return out | {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go on from what ``tensors`` returned after ``step`` steps."""
        part = lambda head: {k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)}  # noqa: E731
        self.representation.load_state_dict(part("representation."))
        load_optimizer(self.optimizer, part("optimizer."))
        self.state.load(part("state."))
        self.step = step


def steps(experiment: Experiment, prior: Prior) -> Iterator[Step]:
    """The loop as a generator: look at, log or change what you like between steps."""
    run = Run(experiment, prior)
    while run.step < experiment.steps:
        yield run.advance()
