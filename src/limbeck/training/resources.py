"""What a run is going to take, and whether there is so much: said before it starts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.priors.loading import EXACT, pick_device, pick_precision
from limbeck.priors.lora_adapters import Networked
from limbeck.system.environment import free_bytes
from limbeck.system.flops import OpCounter, scaled
from limbeck.system.out_of_memory import refusal
from limbeck.system.timing import seconds_of
from limbeck.training.experiment import Experiment
from limbeck.training.profile import Profile
from limbeck.training.trainer import Run

PARTS = {  #: what a folder of a pipeline, or a name in one file of everything, begins with
    "unet": "network", "transformer": "network", "vae": "vae", "first_stage_model": "vae",
    "text_encoder": "text", "text_encoders": "text", "cond_stage_model": "text", "conditioner": "text",
}  # fmt: skip
ROW = 4  #: a row takes less than so many times the weights of the known networks, at their own sizes and with a graph


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class ResourcePlan:
    """Bytes that a run takes on its device, and how long.

    weights: frozen, the most that is on the device at once. particles and learned: of particles and critic, with gradients and the
    optimiser's memory. step: most that a step holds besides; None where nothing needs to be known of it. held: what of all this is
    there already. free: what is left on the device, None where nobody knows. flops: of a step, as ``Tally`` counts them. seconds:
    of a step, 0 before one was timed.
    """

    weights: int
    particles: int
    learned: int
    step: int | None
    held: int
    free: int | None
    steps: int
    flops: int = 0
    seconds: float = 0.0
    warming: float = 0.0

    @property
    def need(self) -> int:
        """All of it."""
        return self.weights + self.particles + self.learned + (self.step or 0)

    def refuse(self) -> None:
        """ValueError where what is still to come does not fit."""
        if self.free is not None and self.need - self.held > self.free:
            raise ValueError(refusal(self.need - self.held, self.free, self.parts))

    def timed(self, seconds: float, cost: Profile) -> ResourcePlan:
        """The same with the length of a step and, unless they were told before, with what ``cost`` counted of one."""
        if self.step is not None:
            return replace(self, step=None, flops=0, seconds=seconds)
        flops = sum(
            count for part, count in cost.flops.items() if part != "pictures"
        )  # which most steps have none of
        return replace(self, step=max(cost.bytes.values(), default=0), flops=flops, seconds=seconds)

    @property
    def parts(self) -> str:
        named = {
            "weights": self.weights,
            "particles": self.particles,
            "critic": self.learned,
            "a step": self.step or 0,
        }
        return ", ".join(f"{name} {gb(size)}" for name, size in named.items() if size)

    def __str__(self) -> str:
        """One line for people."""
        free = f" of {gb(self.held + self.free)} GB" if self.free is not None else ""
        told = f"about {gb(self.need)} GB{free} ({self.parts})" if self.step is not None else ""
        if self.flops:
            told += f", {scaled(self.flops, 'FLOP')} a step"
        if self.seconds:
            told += f"{', ' if told else ''}{self.steps} steps of {self.seconds:.3g} s: about {duration(self.steps * self.seconds)}"
        if self.warming:
            told += f", and {duration(self.warming)} once to make graphs"
        return f"plan: {told}"


def gb(size: float) -> str:
    """Bytes in GB, with as many digits as say something."""
    return f"{size / 1e9:.1f}" if size >= 1e10 else f"{size / 1e9:.2g}"


def duration(seconds: float) -> str:
    """A length of time that is not known to the second."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def planned(run: Run, thorough: bool = False) -> ResourcePlan:
    """The plan of a run that has not stepped yet. A row of a step is tried only where the whole might not fit, or where it is the
    render, of which nothing is known, that may be large; ``thorough``: in any case."""
    e, prior = run.experiment, run.prior
    weights, here = _frozen(prior, e.runtime.offload)
    trained, fixed = (
        _size(kind) for kind in (run.representation.parameters(), run.representation.buffers())
    )
    critic = _size(
        value for name, value in run.state.tensors().items() if not name.startswith("optimizer.")
    )
    # an optimiser such as Adam remembers two numbers for each that it moves, and a gradient is one more
    plan = ResourcePlan(
        weights,
        4 * trained + fixed,
        4 * critic,
        None,
        here + trained + fixed + critic,
        free_bytes(prior.device),
        e.steps,
    )
    rows = (e.batch_size or e.total) * run.cameras.per_particle
    large = plan.free is not None and ROW * rows * (weights + plan.particles) > plan.free
    if thorough or large or run.cameras.eval_cameras(1) is not None:
        tally = traced(run)
        plan = replace(
            plan, step=max(tally.bytes.values(), default=0), flops=sum(tally.flops.values())
        )
    return plan


def _frozen(prior: Prior, offload: bool) -> tuple[int, int]:
    """Bytes of frozen weights on the device: most at once, and now. Parts that take turns there are never there together."""
    own = {
        id(value): value for value in vars(prior).values() if isinstance(value, nn.Module)
    }  # some have two names
    sizes = {key: _size([*module.parameters(), *module.buffers()]) for key, module in own.items()}
    beside = _size(value for value in vars(prior).values() if isinstance(value, Tensor))
    if offload and isinstance(prior, Networked):
        return beside + max(sizes.values()), beside + sizes[id(prior.network)]
    return beside + sum(sizes.values()), beside + sum(sizes.values())


def traced(run: Run) -> OpCounter:
    """What a step takes, from one row of it: render and encoding with their graph, the prior's largest call, the critic's step.

    Nothing is moved and nothing is drawn. Numbers are those of a whole step, which has so many rows more: in proportion, but where
    the autoencoder sees them one by one, what a second row adds to the first is what every other adds.
    """
    e = run.experiment
    rows = (e.batch_size or e.total) * run.cameras.per_particle
    tally = _of_rows(run, 1)
    more = (
        _of_rows(run, 2).bytes
        if e.runtime.slicing and rows > 1
        else {part: 2 * size for part, size in tally.bytes.items()}
    )
    tally.flops.update({part: rows * count for part, count in tally.flops.items()})
    tally.bytes.update(
        {part: size + (rows - 1) * max(0, more[part] - size) for part, size in tally.bytes.items()}
    )
    return tally


def _of_rows(run: Run, count: int) -> OpCounter:
    """What the first particle takes, as often as ``count``."""
    e, prior, meter = run.experiment, run.prior, run.prior.meter
    before = meter.calls, meter.rows, meter.grad_rows
    view = run.eval_request(1)[torch.zeros(count, dtype=torch.long)]
    critic = e.method.critic_prior(prior, run.state)
    guidance = vars(e.method).get("guidance", 0.0)
    told = run.conditions_for(view.particle, view.camera)
    asked = (
        [told.pos]
        if guidance == 1 and critic is None
        else [told.null, told.pos, *([told.pos] if critic is not None else [])]
    )
    moved = [p for p in run.representation.parameters() if p.requires_grad]
    with OpCounter(prior.device) as tally:
        with tally.of("render and encode"):
            x0 = run._x0(run.representation.render(view))
            # not backward(), which would leave gradients behind
            torch.autograd.grad(x0.sum(), moved, allow_unused=True, retain_graph=True)
        xt, t = (
            x0.detach().clone(),
            to_device(prior.schedule.snap(torch.full((count,), 0.5)), prior.device),
        )
        with tally.of("method"), torch.no_grad():
            prior(xt, t, *asked)
        del x0  # and its graph, as before the critic's step
        if critic is not None:
            with tally.of("critic"):
                pose = (
                    None
                    if view.camera is None
                    else to_device(view.camera.pose.float(), prior.device)
                )
                said = critic(xt.requires_grad_(), t, replace(told.pos, pose=pose))[0]
                torch.autograd.grad(said.x0.sum(), xt, allow_unused=True)
    meter.calls, meter.rows, meter.grad_rows = before
    return tally


def rehearsed(run: Run) -> ResourcePlan:
    """The plan after up to three steps in memory alone, the last one timed; ValueError before the first if it does not fit."""
    plan, meter = planned(run, thorough=True), run.prior.meter
    plan.refuse()
    least = math.inf
    for i in range(min(3, run.experiment.steps)):
        if i == 1:  # which graphs would hide: it calls the network as it is
            with run.profile.counting():
                run.advance()
        else:
            before = meter.compile_seconds
            took = seconds_of(run.advance, run.prior.device)
            least = min(least, took - (meter.compile_seconds - before))
    plan = replace(plan, warming=meter.compile_seconds)
    return (
        replace(plan, step=None).timed(least, run.profile)
        if run.step > 1
        else replace(plan, seconds=least)
    )


def refuse_weights(experiment: Experiment, device: str) -> None:
    """ValueError where the weights of a model alone do not fit, before any of them is read."""
    if experiment.model in (*EXACT, "world") or experiment.model.startswith("dataset:"):
        return
    device = pick_device(device)
    width = torch.empty(0, dtype=pick_precision(experiment.precision, device)).element_size()
    numbers, free = _numbers(experiment.model), free_bytes(device)
    # with offload the texts', the network's and the autoencoder's weights are on the device one after the other
    need = width * (max(numbers.values()) if experiment.runtime.offload else sum(numbers.values()))
    if free is not None and need > free:
        raise ValueError(refusal(need, free, "weights alone, with those of the text encoders"))


def _numbers(model: str) -> dict[str, int]:
    """Parameters of a model's files by what they are of; by the table of known models where they are not here, else 0."""
    from limbeck.priors.catalog import find_model
    from limbeck.priors.hub import HUB_ID, in_cache

    path, named = Path(model).expanduser(), HUB_ID.fullmatch(model)
    if not path.exists() and named is not None:
        listed = find_model(named["repo"])
        path = in_cache(named["repo"], named["revision"]) or path
        if not path.exists() and listed:
            millions = {"network": listed.network, "vae": listed.autoencoder, "text": listed.text}
            return {part: round(1e6 * count) for part, count in millions.items()}
    if path.is_file():
        return _in_file(path)
    numbers = dict.fromkeys(("network", "vae", "text"), 0)
    for folder in path.glob("*"):
        part = PARTS.get(folder.name.split(".")[0].rstrip("_23"))
        if part is not None:
            numbers[part] += _in_folder(folder)
    return numbers


def _in_folder(part: Path) -> int:
    files = sorted(part.glob("*.safetensors"))
    plain = [file for file in files if ".fp16" not in file.name]
    return sum(sum(_in_file(file).values()) for file in plain or files)


def _in_file(path: Path) -> dict[str, int]:
    """Numbers in a safetensors file, whose beginning lists them; 0 where it is none."""
    numbers = dict.fromkeys(("network", "vae", "text"), 0)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if path.suffix != ".safetensors" or length > path.stat().st_size:
            return numbers
        listed = json.loads(file.read(length))
    for name, entry in listed.items():
        if name != "__metadata__":
            numbers[PARTS.get(name.split(".")[0], "network")] += math.prod(entry["shape"])
    return numbers
