"""A run of several processes, for tests: started in each of them by ``torch.multiprocessing``."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ball_representation import Ball
from grouped_prior import GroupedDiffusion
from safetensors.torch import save_file

from limbeck import Experiment
from limbeck.graphics.cameras.samplers import Around
from limbeck.methods.base import EditMethod, Method
from limbeck.priors.exact import colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.latents import Latents
from limbeck.runs.recorder import Recorder, record
from limbeck.training.trainer import Run


def load_prior(pipeline: str):
    """The pipeline of a folder, after "groups:" one of groups of views; else the mixture."""
    if pipeline.startswith("groups:"):
        return GroupedDiffusion(pipeline.removeprefix("groups:"), dtype=torch.float32)
    return StableDiffusion(pipeline, dtype=torch.float32) if pipeline else colored_shapes(8)


def make_run(method: Method, prior, steps: int) -> Run:
    """A run of three particles, which two processes cannot divide evenly; of groups, four views."""
    if isinstance(prior, GroupedDiffusion):
        options = {"representation": Ball(), "cameras": Around(), "particles": 3}
        prior.needs_cameras = True
        return Run(Experiment(("a red mug",), method=method, steps=steps, **options), prior)
    prompt = "a red mug" if isinstance(prior, StableDiffusion) else "red disc"
    source = ("two striped cats",) if isinstance(method, EditMethod) else ()
    experiment = Experiment(
        (prompt,),
        source_prompt=source,
        method=method,
        representation=Latents(0.05),
        particles=3,
        steps=steps,
    )
    return Run(experiment, prior)


def take_steps(run: Run) -> dict[str, torch.Tensor]:
    """Take all steps; return what the next one would depend on, and the rows of the network."""
    while run.step < run.experiment.steps:
        run.advance()
    counter = run.prior.call_counter
    rows = {"rows": torch.tensor([counter.rows, counter.grad_rows])}
    return {k: v.detach().clone() for k, v in run.tensors().items()} | rows


def _join(rank: int, count: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count)}
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count)


def run_methods(
    rank: int, count: int, folder: Path, methods: dict[str, tuple[Method, str]], steps: int
) -> None:
    """Run each method with its pipeline, and write what it ended with."""
    _join(rank, count, folder)
    for name, (method, pipeline) in methods.items():
        ended = take_steps(make_run(method, load_prior(pipeline), steps))
        save_file(ended, folder / f"{name}-{rank}.safetensors")
    dist.destroy_process_group()


class StoppedError(Exception):
    """The run was stopped by the test."""


def record_part(experiment: Experiment, folder: Path, stop: int) -> None:
    """Record a run into ``folder/run``, whose first steps may be there already, up to a step."""
    take_step, advance = Recorder._step, Run.advance

    def stopped_step(recorder, progress):
        if recorder.run.step == stop:
            recorder.save()
            recorder.writer.drain()
            raise StoppedError
        return take_step(recorder, progress)

    def stopped_advance(run):  # of a process that records nothing
        if run.step == stop:
            raise StoppedError
        return advance(run)

    with pytest.MonkeyPatch.context() as patch, suppress(StoppedError):
        patch.setattr(Recorder, "_step", stopped_step)
        patch.setattr(Run, "advance", stopped_advance)
        record(experiment, colored_shapes(8), folder / "run")


def record_experiment(
    rank: int, count: int, folder: Path, experiment: Experiment, stop: int
) -> None:
    """``record_part`` in each of several processes."""
    _join(rank, count, folder)
    record_part(experiment, folder, stop)
    dist.destroy_process_group()
