"""The loop: one step of any method on any representation, and the state that makes a resumed run bit-identical."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.camera import Camera, View
from limbeck.experiment import Experiment
from limbeck.loading import load
from limbeck.memory import load_optimizer, optimizer_tensors
from limbeck.method import Directions, Sample, Source, Start, State, surrogate
from limbeck.prior import Conditions, Prior
from limbeck.schedule import expand


def generator(seed: int, step: int) -> torch.Generator:
    """The only source of randomness of a step, on the CPU so that every device draws the same."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step + 500_009)  # never the seed itself, which draws the start


class NonFinite(RuntimeError):
    """A value stopped being finite. ``cause`` names it; ``inputs`` are the tensors of the step, for the failure file."""

    def __init__(self, step: int, cause: str, inputs: dict[str, Tensor]):
        super().__init__(f"step {step}: {cause} is not finite")
        self.step, self.cause, self.inputs = step, cause, inputs


@dataclass(frozen=True)
class Step:
    """What one step did. ``gradient`` is w(t) times the direction; figures are scalars still on the device."""

    step: int
    sample: Sample
    gradient: Float[Tensor, "b ..."]
    figures: dict[str, Tensor]


@dataclass
class Cost:
    """Seconds and network passes by part, added up over a run. Seconds are of the host: on a GPU, work is queued ahead of them."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


class Run:
    """Particles, optimiser and critic of an experiment under way."""

    def __init__(self, experiment: Experiment, prior: Prior):
        e = experiment
        self.experiment, self.prior = e, prior
        self.views = e.looking
        self.sides = len(self.views.texts(""))
        texts = tuple(text for prompt in e.prompts for text in self.views.texts(prompt))
        # all at once: text encoders are loaded to be asked
        plain = prior.condition((*texts, *e.prompts))[len(texts) :] if self.sides > 1 else None
        self.told = self._heard(texts)
        if plain is not None:
            bare = plain[torch.arange(len(e.prompts)).repeat_interleave(self.sides).to(prior.device)]
            self.told = replace(self.told, pos=replace(self.told.pos, bare=bare))
        self.representation = e.representation.build(prior, e.total, e.seed)
        self.optimizer = e.optimizer.build(self.representation.groups())
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        everyone = self.looks(1)
        with torch.no_grad():
            first = self._x0(self.representation.render(everyone))
            before = self._x0(self.representation.before(everyone)) if e.source else None
        self.source = Source(before, self._heard(e.sources)) if before is not None else None
        other = partial(load, device=prior.device, precision=e.precision)
        seen = everyone.camera is not None
        start = Start(e.total, len(e.prompts), e.seed, first, e.prompts, e.sources, e.negative, other, texts, seen)
        self.state: State = e.method.init(prior, start)
        self.step = 0
        self.cost = Cost()

    def _x0(self, render) -> Tensor:
        return self.prior.encode(render.image) if render.space == "image" else render.image

    def _heard(self, texts: tuple[str, ...]) -> Conditions:
        """One row per text, with what guidance leads away from."""
        e, count = self.experiment, len(texts)
        negative = self.prior.condition([e.negative] * count)
        if not e.perpendicular:
            return Conditions(self.prior.condition(texts), negative, k=e.multistep)
        weight = torch.full((count,), e.perpendicular, device=self.prior.device)
        return Conditions(self.prior.condition(texts), self.prior.condition([""] * count), ((negative, weight),), e.multistep)

    def _rows(self, view: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
        """The prompt of each particle."""
        return (view // self.experiment.particles).to(self.prior.device)

    def looks(self, each: int) -> View:
        """Every particle, from ``each`` fixed sides if it has any; what results are shown by."""
        camera = self.views.fixed(each)
        if camera is None:
            return View(torch.arange(self.experiment.total))
        everyone = torch.arange(self.experiment.total).repeat_interleave(each)
        return View(everyone, camera[torch.arange(each).repeat(self.experiment.total)])

    def told_to(self, view: Int[Tensor, "b"], camera: Camera | None = None) -> Conditions:
        """The conditions of particles, with the words of the side that is seen."""
        if self.sides == 1:
            return self.told[self._rows(view)]
        first = self._rows(view) * self.sides
        share, place = self.views.sides(camera, len(view)).to(first.device).topk(2, dim=1)
        told = self.told[first + place[:, 0]]
        if self.views.mixes:
            told = replace(told, pos=told.pos.lerp(self.told.pos[first + place[:, 1]], share[:, 1]))
        away = [(self.told.pos[first + at.to(first)], weight.to(first.device)) for at, weight in self.views.away(camera)]
        return replace(told, against=(*told.against, *away))

    def _source_of(self, view: Int[Tensor, "b"]) -> Source | None:
        """What particles are edits of."""
        if self.source is None:
            return None
        return Source(self.source.x0[view.to(self.source.x0.device)], self.source.told[self._rows(view)])

    def _draw(self, rng: torch.Generator) -> Int[Tensor, "b"]:
        e = self.experiment
        everyone = torch.arange(e.total)
        return everyone if e.batch in (0, e.total) else torch.randperm(e.total, generator=rng)[: e.batch].sort().values

    def advance(self) -> Step:
        """One step of the experiment; raises ``NonFinite`` before anything is changed by a value that is not finite."""
        e, prior, cost = self.experiment, self.prior, self.cost
        rng = generator(e.seed, self.step)
        view = self._draw(rng).repeat_interleave(self.views.each)
        camera = self.views.cameras(len(view), rng)
        progress = self.step / max(e.steps, 1)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * e.optimizer.factor(self.step, e.steps)
        with cost.of("render"):
            render = self.representation.render(View(view, camera, rng, progress))
        with cost.of("encode"):
            x0 = self._x0(render)
        t = prior.schedule.snap(e.timesteps(self.step, e.steps, len(view), prior.schedule, rng)).to(x0.device)
        eps = e.noise(view, tuple(x0.shape[1:]), self.step, e.seed, rng).to(x0)
        image = render.image if render.space == "image" else None
        told, source = self.told_to(view, camera), self._source_of(view)
        drawn = Sample(x0, t, eps, told, view, rng, prior.schedule, self.step, e.steps, image, source, camera)
        with cost.of("method"), torch.no_grad():
            sample = replace(drawn, eps=e.noise.refined(prior, drawn))
            said = e.method(prior, sample, self.state)
            both = said if isinstance(said, Directions) else None
            direction = said if not isinstance(said, Directions) else said.x0
            weight = e.weight(prior.schedule, t)
            gradient = e.gradient(expand(weight, direction) * direction, self.step, e.steps)
        rules = self.representation.regularise(render, progress)
        terms = [surrogate(x0, gradient, view.to(x0.device)), *rules.values()]
        if both is not None and image is not None:
            terms.append(surrogate(image, expand(weight, both.image) * both.image, view.to(x0.device)))
        with cost.of("backward"):
            torch.stack(terms).sum().backward()
        figures = self._figures(sample, direction, gradient, weight) | {name: term.detach() for name, term in rules.items()}
        self._check(sample, gradient, figures)
        with cost.of("optimiser"):
            self.optimizer.step()
            self.representation.after_step(self.step, e.steps, self.optimizer)
            self.optimizer.zero_grad(set_to_none=True)
        with cost.of("critic"):
            figures |= e.method.fit(prior, sample, self.state)
        self.step += 1
        return Step(self.step, sample, gradient, figures)

    def _figures(self, sample: Sample, direction: Tensor, gradient: Tensor, weight: Tensor) -> dict[str, Tensor]:
        norms = torch._foreach_norm([p.grad for p in self.representation.parameters() if p.grad is not None])
        return {
            "residual": direction.square().mean().sqrt(),
            "gradient": gradient.square().mean().sqrt(),
            "parameters": torch.stack(norms).norm(),
            "weight": weight.mean(),
            "t": sample.t.mean(),
        }

    def _check(self, sample: Sample, gradient: Tensor, figures: dict[str, Tensor]) -> None:
        if bool(figures["parameters"].isfinite()):
            return
        inputs = {"x0": sample.x0.detach(), "t": sample.t, "eps": sample.eps, "gradient": gradient}
        named = {"x0": "the render or its encoding", "gradient": "the direction the method answered"}
        bad = [text for key, text in named.items() if not bool(inputs[key].isfinite().all())]
        self.optimizer.zero_grad(set_to_none=True)
        raise NonFinite(self.step, bad[0] if bad else "the gradient of the parameters", inputs)

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
