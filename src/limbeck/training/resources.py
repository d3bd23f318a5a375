"""Memory and time that a run will need, estimated before it starts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.priors.loading import (
    EMBEDDED_MODELS,
    EXACT_MODELS,
    pick_device,
    pick_precision,
)
from limbeck.priors.lora_adapters import NetworkPrior
from limbeck.system.environment import free_bytes
from limbeck.system.flops import OpCounter, format_si
from limbeck.system.out_of_memory import insufficient_memory_message
from limbeck.system.random import RowRandom
from limbeck.system.timing import elapsed_seconds
from limbeck.training.experiment import Experiment
from limbeck.training.profile import Profile
from limbeck.training.trainer import Run
from limbeck.training.view_groups import group_size
from limbeck.training.warm_start import check_particles_fit

#: component by folder of a pipeline or by first part of a tensor's name in a single-file checkpoint
_COMPONENTS = {
    "unet": "network",
    "transformer": "network",
    "vae": "vae",
    "first_stage_model": "vae",
    "text_encoder": "text",
    "text_encoders": "text",
    "cond_stage_model": "text",
    "conditioner": "text",
}
#: a batch row with its graph takes less than this many times the weights of the known networks
_ROW_BOUND = 4


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class ResourcePlan:
    """Device memory and time of a run. All sizes are in bytes.

    Attributes:
        weights: frozen weights, at most on the device at once.
        particles: particles with their gradients and optimizer state.
        critic: critic with its gradients and optimizer state.
        step: peak memory of a step besides these; None if it does not matter or was reported
            before.
        allocated: how much of all this is already on the device.
        free: free memory of the device; None if unknown.
        steps: number of steps of the run.
        flops: floating-point operations of a step, as ``OpCounter`` counts them.
        seconds: time of a step; 0 before one was timed.
        compile_seconds: time spent on compilation, once per run.
    """

    weights: int
    particles: int
    critic: int
    step: int | None
    allocated: int
    free: int | None
    steps: int
    flops: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.weights + self.particles + self.critic + (self.step or 0)

    def check_fits(self) -> None:
        """Raise a ValueError if what is not allocated yet does not fit."""
        required = self.total - self.allocated
        if self.free is not None and required > self.free:
            raise ValueError(insufficient_memory_message(required, self.free, self.breakdown))

    def with_timing(self, seconds: float, profile: Profile) -> ResourcePlan:
        """Return the plan with the time of a step and, unless it was known before, its cost.

        Args:
            seconds: time of a step.
            profile: profile of the run, with the operations and bytes of a step.
        """
        if self.step is not None:
            return replace(self, step=None, flops=0, seconds=seconds)
        # most steps decode no images
        flops = sum(count for part, count in profile.flops.items() if part != "images")
        size = max(profile.bytes.values(), default=0)
        return replace(self, step=size, flops=flops, seconds=seconds)

    @property
    def breakdown(self) -> str:
        """The sizes in GB of a megabyte or more, as text."""
        sizes = {
            "weights": self.weights,
            "particles": self.particles,
            "state of the method": self.critic,
            "a step": self.step or 0,
        }
        return ", ".join(f"{name} {format_gb(size)}" for name, size in sizes.items() if size >= 1e6)

    def __str__(self) -> str:
        """One line for the console."""
        text = ""
        if self.step is not None:
            text = f"about {format_gb(self.total)} GB"
            if self.free is not None:
                text += f" of {format_gb(self.allocated + self.free)} GB"
            text += f" ({self.breakdown})" if self.breakdown else ""
        if self.flops:
            text += f", {format_si(self.flops, 'FLOP')} a step"
        if self.seconds:
            text += ", " if text else ""
            text += f"{self.steps} steps of {self.seconds:.3g} s: about "
            text += format_duration(self.steps * self.seconds)
        if self.compile_seconds:
            text += f", and {format_duration(self.compile_seconds)} once for compilation"
        return f"plan: {text}"


def total_plan(plans: Sequence[ResourcePlan]) -> str:
    """Return one line for runs that follow each other.

    Args:
        plans: plan of each run.
    """
    seconds = sum(plan.steps * plan.seconds + plan.compile_seconds for plan in plans)
    largest = max(plan.total for plan in plans)
    return (
        f"total: {sum(plan.steps for plan in plans):,} steps in {len(plans)} stages, about "
        f"{format_duration(seconds)} and at most {format_gb(largest)} GB"
    )


def format_gb(size: float) -> str:
    """Format bytes in GB, with two significant digits below 10 GB."""
    return f"{size / 1e9:.1f}" if size >= 1e10 else f"{size / 1e9:.2g}"


def format_duration(seconds: float) -> str:
    """Format an approximate duration in h, min or s."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


def plan_resources(run: Run, thorough: bool = False) -> ResourcePlan:
    """Plan a run that has not started.

    A batch row is tried out only if the whole might not fit, or if there are cameras: the memory of
    a 3D render, which may be large, cannot be predicted.

    Args:
        run: the run.
        thorough: try out a batch row in any case.
    """
    e, prior = run.experiment, run.prior
    weights, weights_now = _frozen_weights(prior, e.runtime.cpu_offload)
    parameters = list(run.representation.parameters())
    trained = _size(p for p in parameters if p.requires_grad)
    fixed = _size(run.representation.buffers()) + _size(
        p for p in parameters if not p.requires_grad
    )
    state = run.state.tensors().items()
    critic = _size(value for name, value in state if not name.startswith("optimizer."))
    # gradient and, for an optimizer such as Adam, two running means: four times the parameters
    plan = ResourcePlan(
        weights=weights,
        particles=4 * trained + fixed,
        critic=4 * critic,
        step=None,
        allocated=weights_now + trained + fixed + critic,
        free=free_bytes(prior.device),
        steps=e.steps,
    )
    bound = _ROW_BOUND * _num_rows(run) * (weights + plan.particles)
    may_not_fit = plan.free is not None and bound > plan.free
    if thorough or may_not_fit or run.cameras.eval_cameras(1) is not None:
        counter = trace_step(run)
        size = max(counter.bytes.values(), default=0)
        plan = replace(plan, step=size, flops=sum(counter.flops.values()))
    return plan


def _num_rows(run: Run) -> int:
    """Batch rows of a step."""
    return (run.experiment.batch_size or run.experiment.total) * run.cameras.per_particle


def _frozen_weights(prior: Prior, offload: bool) -> tuple[int, int]:
    """Bytes of frozen weights on the device: at most at once, and now.

    With offload, autoencoder and all that a prediction needs are never on the device together.
    """
    values = vars(prior).values()
    # by id, because some modules have two names
    modules = {id(value): value for value in values if isinstance(value, nn.Module)}
    sizes = {
        key: _size([*module.parameters(), *module.buffers()]) for key, module in modules.items()
    }
    tensors = _size(value for value in values if isinstance(value, Tensor))
    if offload and isinstance(prior, NetworkPrior):
        encoding = sizes[id(vars(prior)["vae"])] if "vae" in vars(prior) else 0
        denoising = sum(sizes.values()) - encoding
        return tensors + max(denoising, encoding), tensors + denoising
    return tensors + sum(sizes.values()), tensors + sum(sizes.values())


def trace_step(run: Run) -> OpCounter:
    """Count the operations and bytes of a step by trying out one batch row.

    Runs render and encoding with their graph, the prior's largest call and the critic's step. For
    a model that sees groups of views, a row stands for a group of them.
    The increment from one row to two is used for each further row: part of the memory, such as the
    gradient of all particles, does not grow with them. Changes no parameters and draws no random
    numbers.
    """
    size = group_size(run.experiment, run.prior)
    rows = _num_rows(run) // size
    counter = _trace_rows(run, size)
    increments = counter.bytes
    if rows > 1:
        two_rows = _trace_rows(run, 2 * size).bytes
        increments = {part: max(0, two_rows[part] - size) for part, size in counter.bytes.items()}
    counter.flops.update({part: rows * count for part, count in counter.flops.items()})
    counter.bytes.update(
        {part: size + (rows - 1) * increments[part] for part, size in counter.bytes.items()}
    )
    return counter


def _trace_rows(run: Run, count: int) -> OpCounter:
    """Count a step of ``count`` batch rows, all of the first particle, in whole groups of views."""
    e, prior, calls = run.experiment, run.prior, run.prior.call_counter
    calls_before = calls.calls, calls.rows, calls.grad_rows
    size = group_size(e, prior)
    request = run.eval_request(size)[torch.arange(size).repeat(count // size)]
    if e.representation.fresh_samples:  # the network that is trained, not the mean that is shown
        request = replace(request, rng=RowRandom.of_step(e.run_seed, 0, request.particle))
    critic = e.method.critic_prior(prior, run.state)
    parameters = [p for p in run.representation.parameters() if p.requires_grad]
    with OpCounter(prior.device) as counter:
        with counter.part("render and encode"):
            render = run.render(request)
            x0 = run.encode(render)
            # not backward(), which would leave gradients behind
            torch.autograd.grad(x0.sum(), parameters, allow_unused=True, retain_graph=True)
        conditions = run.conditions_for(request.particle, request.camera, render)
        pos, null = conditions.pos, conditions.null
        if critic is not None:
            largest_call = [null, pos, pos]
        elif vars(e.method).get("guidance", 0.0) == 1:
            largest_call = [pos]
        else:
            largest_call = [null, pos]
        if conditions.no_image is not None and conditions.image_guidance != 1:
            largest_call = [conditions.no_image, *largest_call]
        xt = x0.detach().clone()
        t = to_device(prior.schedule.snap(torch.full((count,), 0.5)), prior.device)
        with counter.part("method"), torch.no_grad():
            prior(xt, t, *largest_call)
        del x0, render  # and its graph, as before the critic's step
        if critic is not None:
            with counter.part("critic"):
                pose = None
                if request.camera is not None:
                    pose = to_device(request.camera.pose.float(), prior.device)
                prediction = critic(xt.requires_grad_(), t, replace(pos, pose=pose))[0]
                torch.autograd.grad(prediction.x0.sum(), xt, allow_unused=True)
    calls.calls, calls.rows, calls.grad_rows = calls_before
    return counter


def rehearse(run: Run) -> ResourcePlan:
    """Run up to three steps in memory and return the plan with the time of the fastest.

    Raises:
        ValueError: before the first step, if the run does not fit.
    """
    plan, calls = plan_resources(run, thorough=True), run.prior.call_counter
    plan.check_fits()
    fastest = math.inf
    for i in range(min(3, run.experiment.steps)):
        if i == 1:  # calls the network without compiled graphs, which would hide operations
            with run.profile.count_ops():
                run.advance()
        else:
            compiled = calls.compile_seconds
            seconds = elapsed_seconds(run.advance, run.prior.device)
            fastest = min(fastest, seconds - (calls.compile_seconds - compiled))
    plan = replace(plan, compile_seconds=calls.compile_seconds)
    if run.step == 1:
        return replace(plan, seconds=fastest)
    return replace(plan, step=None).with_timing(fastest, run.profile)


def check_weights_fit(experiment: Experiment, device: str) -> None:
    """Check, before any weights are read, that they and images of the size given can fit.

    Raises:
        ValueError: if they do not fit.
    """
    e = experiment
    check_particles_fit(e.representation, e.total, (1, 1), pick_device(device))
    name = str(experiment.model)
    is_small = name in (*EXACT_MODELS, *EMBEDDED_MODELS) or name.startswith("dataset:")
    if is_small or not isinstance(experiment.model, Model):
        return
    device = pick_device(device)
    dtype = pick_precision(experiment.precision, device)
    counts, free = _parameter_counts(name), free_bytes(device)
    if experiment.model.control:
        counts["network"] += _count_in_folder(Path(experiment.model.control).expanduser())
    # with offload, text encoders, network and autoencoder are on the device one after the other
    count = (max if experiment.runtime.cpu_offload else sum)(counts.values())
    size = count * dtype.itemsize
    if free is not None and size > free:
        breakdown = "weights alone, with those of the text encoders"
        raise ValueError(insufficient_memory_message(size, free, breakdown))


def _parameter_counts(model: str) -> dict[str, int]:
    """Number of parameters by component.

    Counted in the model's files; for models that are not on this machine by the list of known
    models, else 0.
    """
    from limbeck.priors.catalog import find_model
    from limbeck.priors.hub import REPO_ID_PATTERN, find_cached

    path, hub_id = Path(model).expanduser(), REPO_ID_PATTERN.fullmatch(model)
    if not path.exists() and hub_id is not None:
        known = find_model(hub_id["repo"])
        path = find_cached(hub_id["repo"], hub_id["revision"]) or path
        if not path.exists() and known:
            millions = {
                "network": known.network_params,
                "vae": known.vae_params,
                "text": known.text_encoder_params,
            }
            return {component: round(1e6 * count) for component, count in millions.items()}
    if path.is_file():
        return _count_in_file(path)
    counts = dict.fromkeys(("network", "vae", "text"), 0)
    for folder in path.glob("*"):
        component = _COMPONENTS.get(folder.name.split(".")[0].rstrip("_23"))
        if component is not None:
            counts[component] += _count_in_folder(folder)
    return counts


def _count_in_folder(folder: Path) -> int:
    files = sorted(folder.glob("*.safetensors"))
    full_precision = [file for file in files if ".fp16" not in file.name]
    return sum(sum(_count_in_file(file).values()) for file in full_precision or files)


def _count_in_file(path: Path) -> dict[str, int]:
    """Count the parameters listed in the header of a safetensors file; 0 for any other file."""
    counts = dict.fromkeys(("network", "vae", "text"), 0)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if path.suffix != ".safetensors" or length > path.stat().st_size:
            return counts
        header = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            component = _COMPONENTS.get(name.split(".")[0], "network")
            counts[component] += math.prod(entry["shape"])
    return counts
