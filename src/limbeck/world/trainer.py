"""One trainer for the world's networks: a time budget, data-parallel workers, a moving average, and resumption after a kill.

The learning rate follows the share of the time budget that is spent, so the same command fits two minutes or two hours.
"""

from __future__ import annotations

import abc
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Budget:
    """How long and with what a stage is trained.

    minutes: wall time of the whole stage, over all sittings. workers: processes that share the gradient (one thread each on a CPU).
    device: ``cpu``, ``cuda`` ... every: seconds between checkpoints. preview: seconds between previews.
    """

    minutes: float
    workers: int = 1
    device: str = "cpu"
    every: float = 60.0
    preview: float = 600.0


M = TypeVar("M", bound=nn.Module)


class Task(abc.ABC, Generic[M]):
    """What one stage trains. Instances travel to the workers, so they hold settings and paths, never tensors."""

    name: str
    rate: float = 1e-3  #: peak learning rate
    warmup: int = 200  #: steps
    decay_from: float = 0.4  #: share of the budget after which the rate falls linearly to zero
    average: float = 0.999  #: decay of the moving average of the weights

    @abc.abstractmethod
    def build(self) -> M:
        """A module whose forward takes a batch and returns ``{"loss": scalar, ...}``."""

    @abc.abstractmethod
    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        """One worker's batch on the CPU."""

    def preview(self, model: M, folder: Path, minute: float) -> dict[str, float]:
        """Figures (and pictures in ``folder``) from the averaged weights; called now and then, and at the end."""
        return {}


def rate_at(task: Task, step: int, progress: float) -> float:
    """Learning rate at a step, ``progress`` in [0, 1] being the share of the budget spent."""
    warm = min(1.0, (step + 1) / task.warmup)
    fall = 1.0 if progress < task.decay_from else (1.0 - progress) / (1.0 - task.decay_from)
    return task.rate * warm * max(fall, 0.0)


def save_tensors(path: Path, tensors: dict[str, Tensor], note: dict) -> None:
    """Write safetensors atomically, with ``note`` as JSON in its header."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
        temporary,
        {"note": json.dumps(note)},
    )
    os.replace(temporary, path)


def _note(path: Path) -> dict:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["note"])


class _State:
    """Weights, their average and the optimiser, to and from one file."""

    def __init__(self, model: nn.Module, task: Task, device: str):
        self.model = model
        decay = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": 1e-3}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=task.rate, betas=(0.9, 0.99), fused=True)
        self.averaged = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.step, self.elapsed = 0, 0.0

    def average(self, decay: float) -> None:
        ramp = min(decay, (1 + self.step) / (10 + self.step))
        live = self.model.state_dict()
        floats = [k for k, v in live.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.averaged[k] for k in floats], [live[k] for k in floats], 1 - ramp
        )

    def write(self, path: Path) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        for i, p in enumerate(p for g in self.optimizer.param_groups for p in g["params"]):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in self.optimizer.state[p].items()}
        save_tensors(path, tensors, {"step": self.step, "elapsed": self.elapsed})

    def read(self, path: Path, device: str) -> None:
        tensors, note = load_file(path, device=device), _note(path)
        part = lambda head: {k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)}  # noqa: E731
        self.model.load_state_dict(part("model."))
        self.averaged = part("averaged.")
        for i, p in enumerate(p for g in self.optimizer.param_groups for p in g["params"]):
            self.optimizer.state[p] = part(f"optimizer.{i}.")
        self.step, self.elapsed = note["step"], note["elapsed"]


class _Team:
    """Workers that share gradients through memory: each sums a slice for all. Faster here than a ring over sockets by a third.

    gradients ``[workers, parameters]`` and clock ``[1]`` lie in shared memory; every worker holds its row as its ``.grad`` tensors.
    """

    def __init__(self, workers: int, size: int):
        context = torch.multiprocessing.get_context("spawn")
        self.workers = workers
        self.gradients = torch.zeros(workers, size).share_memory_()
        self.clock = torch.zeros(1, dtype=torch.float64).share_memory_()
        # the first worker may look at its results for minutes; one that waits longer has lost its team
        self.gate = context.Barrier(workers, timeout=1800)

    def lend(self, rank: int, parameters: list[nn.Parameter]) -> None:
        """Make the worker's row the gradient of its parameters."""
        for p, part in zip(
            parameters, self.gradients[rank].split([p.numel() for p in parameters]), strict=True
        ):
            p.grad = part.view_as(p)

    def average(self, rank: int) -> None:
        """Replace every row by the mean over workers."""
        self.gate.wait()
        width = -(-self.gradients.shape[1] // self.workers)
        part = slice(rank * width, (rank + 1) * width)
        self.gradients[:, part] = self.gradients[:, part].mean(0, keepdim=True)
        self.gate.wait()

    def agree(self, rank: int, clock: float) -> float:
        """The first worker's clock, for all: every worker must see the same share of the budget."""
        if rank == 0:
            self.clock[0] = clock
        self.gate.wait()
        return self.clock.item()


def _work(
    rank: int, task: Task, folder: Path, budget: Budget, seed: int, team: _Team | None
) -> None:
    if budget.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(seed)
    state = _State(task.build().to(budget.device), task, budget.device)
    path = folder / f"{task.name}.checkpoint.safetensors"
    if path.exists():
        state.read(path, budget.device)
    if team is not None:
        team.lend(rank, [p for p in state.model.parameters() if p.requires_grad])
    _loop(rank, task, folder, budget, seed, state, team, path)


def _loop(
    rank: int,
    task: Task,
    folder: Path,
    budget: Budget,
    seed: int,
    state: _State,
    team: _Team | None,
    path: Path,
) -> None:
    parent = os.getppid()
    last = time.monotonic()
    saved = shown = state.elapsed
    sums: dict[str, Tensor] = {}
    counted = 0
    # a worker whose parent was killed must not train on; a training without workers may outlive its shell
    while team is None or os.getppid() == parent:
        now = time.monotonic()
        elapsed = state.elapsed + now - last
        last = now
        state.elapsed = elapsed if team is None else team.agree(rank, elapsed)
        progress = state.elapsed / (60 * budget.minutes)
        done = progress >= 1
        if rank == 0 and (done or state.elapsed - saved > budget.every) and counted:
            look = done or state.elapsed - shown > budget.preview
            _record(task, state, folder, {k: float(v) / counted for k, v in sums.items()}, look)
            state.write(path)
            saved, sums, counted = state.elapsed, {}, 0
            if look:
                shown, last = state.elapsed, time.monotonic()  # looking does not count as training
        if done:
            return
        rng = torch.Generator().manual_seed((seed * 1_000_003 + state.step) * 64 + rank)
        losses = _descend(rank, task, budget, state, team, rng, progress)
        for k, v in losses.items():
            sums[k] = sums[k] + v if k in sums else v
        counted += 1


def _descend(
    rank: int,
    task: Task,
    budget: Budget,
    state: _State,
    team: _Team | None,
    rng: torch.Generator,
    progress: float,
) -> dict[str, Tensor]:
    """One optimiser step; the losses and the gradient's norm."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(task, state.step, progress)
    batch = tuple(x.to(budget.device) for x in task.batch(rng, progress))
    with torch.autocast(torch.device(budget.device).type, dtype=torch.bfloat16):
        losses = state.model(*batch)
    losses["loss"].backward()
    if team is not None:
        team.average(rank)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), 1.0, error_if_nonfinite=True)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=team is None)
    state.step += 1
    state.average(task.average)
    return {k: v.detach() for k, v in {**losses, "gradient": norm}.items()}


def _record(task: Task, state: _State, folder: Path, means: dict[str, float], look: bool) -> None:
    line = {
        "step": state.step,
        "minute": round(state.elapsed / 60, 2),
        **{k: round(v, 5) for k, v in means.items()},
    }
    if look:
        line |= _preview(task, state, folder)
    with (folder / f"{task.name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{task.name}: " + "  ".join(f"{k} {v}" for k, v in line.items()), flush=True)


def _preview(task: Task, state: _State, folder: Path) -> dict[str, float]:
    live = {k: v.clone() for k, v in state.model.state_dict().items()}
    state.model.load_state_dict(state.averaged)
    state.model.eval()
    with torch.no_grad():
        figures = task.preview(state.model, folder, state.elapsed / 60)
    state.model.train()
    state.model.load_state_dict(live)
    return figures


def fit(task: Task[M], folder: Path, budget: Budget, seed: int = 0) -> M:
    """Train a task for what is left of its budget and return the module with averaged weights, on the CPU.

    A killed run goes on from ``NAME.checkpoint.safetensors`` in ``folder``; a finished one returns at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task.name}.checkpoint.safetensors"
    if not path.exists() or _note(path)["elapsed"] < 60 * budget.minutes:
        if budget.workers > 1:
            size = sum(p.numel() for p in task.build().parameters() if p.requires_grad)
            torch.multiprocessing.spawn(
                _work, (task, folder, budget, seed, _Team(budget.workers, size)), budget.workers
            )
        else:
            _work(0, task, folder, budget, seed, None)
    return averaged(task, path)


def averaged(task: Task[M], checkpoint: Path) -> M:
    """The module of a task with the averaged weights of a checkpoint."""
    model = task.build()
    tensors = load_file(checkpoint)
    model.load_state_dict(
        {k[len("averaged.") :]: v for k, v in tensors.items() if k.startswith("averaged.")}
    )
    return model.eval()
