"""Trainer of the world's networks: time budget, data parallelism, weight averaging, resuming.

The learning rate follows the share of the budget that is spent, so the same command fits two
minutes or two hours. A training with a budget of steps is the same, bit for bit, however often it
is stopped.
"""

from __future__ import annotations

import abc
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.system.files import replacing
from limbeck.system.interrupt import DeferredInterrupt, Stopped
from limbeck.world.shared_gradients import SharedGradients

_SIGNAL_SECONDS = 0.2  #: after which the workers get a signal, at most


@dataclass(frozen=True)
class Budget:
    """Time and hardware of one training stage.

    Attributes:
        minutes: wall time of the whole stage in minutes, previews included, summed over
            interruptions; of no effect with steps.
        workers: processes that share the gradient (one thread each on a CPU).
        device: device of torch, as ``cpu`` or ``cuda``.
        checkpoint_every: seconds between checkpoints.
        preview_every: seconds between previews.
        last_preview: whether to preview at the end as well, after the minutes.
        steps: optimizer steps of the whole stage. None: as many as the minutes allow.
    """

    minutes: float
    workers: int = 1
    device: str = "cpu"
    checkpoint_every: float = 60.0
    preview_every: float = 600.0
    last_preview: bool = True
    steps: int | None = None

    def progress(self, elapsed: float, step: int) -> float:
        """Return the share that is spent, at least 1 at the end.

        Args:
            elapsed: seconds of training so far.
            step: optimizer steps so far.
        """
        return elapsed / (60 * self.minutes) if self.steps is None else step / self.steps


ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Task(abc.ABC, Generic[ModuleT]):
    """What one stage trains.

    Instances are pickled for the workers, so they hold settings and paths, never tensors.
    """

    name: str
    lr: float = 1e-3  #: peak learning rate
    warmup_steps: int = 200
    decay_start: float = 0.4  #: share of the budget after which the rate falls linearly to 0
    ema_decay: float = 0.999  #: decay of the moving average of the weights

    @abc.abstractmethod
    def build(self) -> ModuleT:
        """Return a new module whose forward takes a batch and returns ``{"loss": scalar, ...}``."""

    def parameter_groups(self, model: ModuleT) -> list[dict[str, Any]]:
        """Return the parameter groups of AdamW; ``lr_factor`` multiplies the learning rate.

        Args:
            model: the module, whose parameters without gradient are left out.
        """
        trained = [p for p in model.parameters() if p.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 1e-3, "lr_factor": 1.0},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "lr_factor": 1.0},
        ]

    @abc.abstractmethod
    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        """Return one worker's batch, on the CPU.

        Args:
            rng: source of all randomness.
            progress: share of the budget that is spent, in [0, 1].
        """

    def preview(self, model: ModuleT, folder: Path, minute: float) -> dict[str, float]:
        """Evaluate the averaged weights; called at intervals, and at the end if the budget says so.

        Args:
            model: the module with averaged weights, in evaluation mode.
            folder: where to write images.
            minute: training time so far.

        Returns:
            Metrics to log.
        """
        return {}


def lr_at(task: Task, step: int, progress: float) -> float:
    """Return the learning rate of a step.

    Args:
        task: what is trained.
        step: number of the step, from 0.
        progress: share of the budget that is spent, in [0, 1].
    """
    return task.lr * min(1.0, (step + 1) / task.warmup_steps) * decay_at(task, progress)


def decay_at(task: Task, progress: float) -> float:
    """Return the factor on the learning rate that falls linearly from 1 at the end, to 0.

    Args:
        task: what is trained.
        progress: share of the budget that is spent, in [0, 1].
    """
    if progress < task.decay_start:
        return 1.0
    return max((1.0 - progress) / (1.0 - task.decay_start), 0.0)


def batch_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the batch of a worker, another one for every step and worker.

    Args:
        seed: seed of the training.
        step: steps that are done.
        rank: number of the worker.
    """
    # without the last term, worker 64 of a step would draw what worker 0 draws in the next
    return (seed * 1_000_003 + step) * 64 + rank % 64 + rank // 64 * 0x9E3779B9


def checkpoint_path(task: Task, folder: Path) -> Path:
    """Return the checkpoint of a task that is trained in a folder."""
    return folder / f"{task.name}.checkpoint.safetensors"


def _save_tensors(path: Path, tensors: dict[str, Tensor], note: dict) -> None:
    """Write safetensors atomically, with ``note`` as JSON in the header."""
    stored = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with replacing(path) as part:
        save_file(stored, part, {"note": json.dumps(note)})


def _read_note(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["note"])


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have the prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class _State:
    """Weights, their average and the optimizer, saved to and loaded from one file."""

    def __init__(self, model: nn.Module, task: Task):
        self.model = model
        groups = task.parameter_groups(model)
        self.optimizer = torch.optim.AdamW(groups, lr=task.lr, betas=(0.9, 0.99), fused=True)
        self.averaged = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.step, self.elapsed = 0, 0.0

    def update_average(self, decay: float) -> None:
        """Move the average toward the weights, faster in the first steps."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        weights = self.model.state_dict()
        names = [k for k, v in weights.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.averaged[k] for k in names], [weights[k] for k in names], 1 - decay
        )

    def _optimized(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def save(self, path: Path) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.items()}
        for i, p in enumerate(self._optimized()):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in self.optimizer.state[p].items()}
        _save_tensors(path, tensors, {"step": self.step, "elapsed": self.elapsed})

    def load(self, path: Path, device: str) -> None:
        tensors, note = load_file(path, device=device), _read_note(path)
        self.model.load_state_dict(_with_prefix(tensors, "model."))
        self.averaged = _with_prefix(tensors, "averaged.")
        for i, p in enumerate(self._optimized()):
            self.optimizer.state[p] = _with_prefix(tensors, f"optimizer.{i}.")
        self.step, self.elapsed = note["step"], note["elapsed"]


@dataclass
class _Worker:
    """One process of a training."""

    rank: int
    task: Task
    folder: Path
    budget: Budget
    seed: int
    state: _State
    shared: SharedGradients | None
    interrupt: DeferredInterrupt

    def run(self) -> None:
        """Train until the budget is spent or a signal asks to stop.

        The first worker logs, previews and saves, also before it stops.
        """
        parent = os.getppid()
        last = time.monotonic()
        saved = previewed = self.state.elapsed
        sums: dict[str, Tensor] = {}
        num_steps = 0
        # a worker whose parent was killed must stop; a training without workers may outlive its
        # shell
        while self.shared is None or os.getppid() == parent:
            now = time.monotonic()
            elapsed = self.state.elapsed + now - last
            last = now
            stopping = self.interrupt.requested
            if self.shared is not None:
                elapsed, stopping = self.shared.agree(self.rank, elapsed)
            self.state.elapsed = elapsed
            progress = self.budget.progress(elapsed, self.state.step)
            done = progress >= 1
            due = done or stopping or elapsed - saved > self.budget.checkpoint_every
            if self.rank == 0 and due and num_steps:
                preview = elapsed - previewed > self.budget.preview_every
                preview |= done and self.budget.last_preview
                preview &= not stopping  # it may take minutes, and who asked may not wait
                self._record({k: float(v) / num_steps for k, v in sums.items()}, preview)
                self.state.save(checkpoint_path(self.task, self.folder))
                saved, sums, num_steps = elapsed, {}, 0
                previewed = elapsed if preview else previewed
            if done or stopping:
                return
            for k, v in self.step(progress).items():
                sums[k] = sums[k] + v if k in sums else v
            num_steps += 1

    def step(self, progress: float) -> dict[str, Tensor]:
        """Do one optimizer step; return the losses and the norm of the gradient."""
        state, device = self.state, self.budget.device
        rng = torch.Generator().manual_seed(batch_seed(self.seed, state.step, self.rank))
        for group in state.optimizer.param_groups:
            group["lr"] = lr_at(self.task, state.step, progress) * group["lr_factor"]
        batch = tuple(x.to(device) for x in self.task.batch(rng, progress))
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            losses = state.model(*batch)
        losses["loss"].backward()
        if self.shared is not None:
            self.shared.average(self.rank)
        norm = nn.utils.clip_grad_norm_(state.model.parameters(), 1.0, error_if_nonfinite=True)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=self.shared is None)
        state.step += 1
        state.update_average(self.task.ema_decay)
        return {k: v.detach() for k, v in {**losses, "gradient": norm}.items()}

    def _record(self, means: dict[str, float], preview: bool) -> None:
        name, state = self.task.name, self.state
        row = {"step": state.step, "minute": round(state.elapsed / 60, 2)}
        row |= {k: round(v, 5) for k, v in means.items()}
        if preview:
            row |= self._preview()
        with (self.folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name}: " + "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)

    def _preview(self) -> dict[str, float]:
        model = self.state.model
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(self.state.averaged)
        model.eval()
        with torch.no_grad():
            metrics = self.task.preview(model, self.folder, self.state.elapsed / 60)
        model.train()
        model.load_state_dict(weights)
        return metrics


def _work(
    rank: int,
    task: Task,
    folder: Path,
    budget: Budget,
    seed: int,
    shared: SharedGradients | None = None,
    interrupt: DeferredInterrupt | None = None,
) -> None:
    """Train in this process; a worker of several is stopped by its parent, never by a signal."""
    if interrupt is None:
        with DeferredInterrupt(repeated=False) as deaf:
            return _work(rank, task, folder, budget, seed, shared, deaf)
    if budget.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(seed)
    state = _State(task.build().to(budget.device), task)
    path = checkpoint_path(task, folder)
    if path.exists():
        state.load(path, budget.device)
    if shared is not None:
        shared.attach(rank, [p for p in state.model.parameters() if p.requires_grad])
    _Worker(rank, task, folder, budget, seed, state, shared, interrupt).run()


def _work_in_processes(
    task: Task, folder: Path, budget: Budget, seed: int, interrupt: DeferredInterrupt
) -> None:
    """Train in several processes, and hand a signal on to them."""
    size = sum(p.numel() for p in task.build().parameters() if p.requires_grad)
    shared = SharedGradients(budget.workers, size)
    workers = torch.multiprocessing.spawn(
        _work, (task, folder, budget, seed, shared), budget.workers, join=False
    )
    assert workers is not None
    try:
        while not workers.join(timeout=_SIGNAL_SECONDS):
            shared.signal[0] = interrupt.requested
    except BaseException:  # a second signal, or a worker that failed
        for process in workers.processes:
            process.kill()
        raise


def fit(task: Task[ModuleT], folder: Path, budget: Budget, seed: int = 0) -> ModuleT:
    """Train a task until its budget is spent.

    SIGINT, SIGTERM and SIGHUP take effect between steps and leave a checkpoint; a second one ends
    the training at once. A stopped or killed training resumes from
    ``NAME.checkpoint.safetensors`` in ``folder``; a finished one returns at once.

    Args:
        task: what to train.
        folder: where checkpoints and the log ``NAME.jsonl`` are written.
        budget: time and hardware.
        seed: seed of the weights and the batches.

    Returns:
        The module with averaged weights, on the CPU.

    Raises:
        Stopped: after a signal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not is_budget_spent(task, folder, budget):
        with DeferredInterrupt() as interrupt:
            if budget.workers > 1:
                _work_in_processes(task, folder, budget, seed, interrupt)
            else:
                _work(0, task, folder, budget, seed, None, interrupt)
        if interrupt.requested:
            raise Stopped(interrupt.requested)
    return load_averaged(task, checkpoint_path(task, folder))


def is_budget_spent(task: Task, folder: Path, budget: Budget) -> bool:
    """Return whether a task has spent its budget; see ``fit``."""
    path = checkpoint_path(task, folder)
    if not path.exists():
        return False
    note = _read_note(path)
    return budget.progress(note["elapsed"], note["step"]) >= 1


def load_averaged(task: Task[ModuleT], checkpoint: Path) -> ModuleT:
    """Return the module of a task with the averaged weights of a checkpoint.

    Args:
        task: what was trained.
        checkpoint: file written by ``fit``.
    """
    model = task.build()
    model.load_state_dict(_with_prefix(load_file(checkpoint), "averaged."))
    return model.eval()
