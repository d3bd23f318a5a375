"""The trainer of the world: workers, the learning rate, resuming after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limbeck.world.trainer import Budget, Task, _read_note, batch_seed, fit, lr_at
from limbeck.world.training_options import WorldTraining


def test_more_than_64_workers_have_batches_of_their_own() -> None:
    seeds = [batch_seed(0, step, rank) % 2**32 for step in range(500) for rank in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert batch_seed(2, 5, 63) == (2 * 1_000_003 + 5) * 64 + 63, "as in earlier trainings"


class Line(nn.Module):
    """y = slope x, trained toward y = 3 x."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.slope.float() * x - 3 * x).square().mean()}


class Slope(Task[Line]):
    name, lr, warmup_steps, ema_decay = "slope", 0.05, 5, 0.9

    def build(self) -> Line:
        return Line()

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        time.sleep(0.002)
        return (torch.randn(8, generator=rng),)


def test_two_workers_learn_and_a_finished_training_returns_at_once(tmp_path):
    model = fit(Slope(), tmp_path, Budget(0.05, workers=2, checkpoint_every=1))
    assert abs(model.slope.item() - 3) < 0.2
    rows = [json.loads(line) for line in (tmp_path / "slope.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    start = time.monotonic()
    again = fit(Slope(), tmp_path, Budget(0.05, checkpoint_every=1))
    assert time.monotonic() - start < 1 and torch.equal(model.slope, again.slope)


def test_a_killed_training_resumes(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_trainer import *\n"
        f"fit(Slope(), Path({str(tmp_path)!r}), Budget(10, checkpoint_every=0.2))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, start_new_session=True
    )
    log = tmp_path / "slope.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) >= 2):
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = json.loads(log.read_text().splitlines()[-1])
    fit(Slope(), tmp_path, Budget(before["minute"] + 0.02, checkpoint_every=0.2))
    after = json.loads(log.read_text().splitlines()[-1])
    assert after["step"] > before["step"] and after["minute"] >= before["minute"]


class Announced(Slope):
    """Writes a file in its 20th batch."""

    def __init__(self, started: Path):
        self._started, self._batches = started, 0

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        self._batches += 1
        if self._batches == 20:
            self._started.touch()
        return super().batch(rng, progress)


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGTERM, 1),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_a_checkpoint_of_the_last_step(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_trainer import *\n"
        "from limbeck.system.interrupt import exit_code\n"
        "if __name__ == '__main__':\n"
        f"    folder = Path({str(tmp_path)!r})\n"
        f"    budget = Budget(10, {workers}, checkpoint_every=999)\n"
        "    try: fit(Announced(folder / 'started'), folder, budget)\n"
        "    except KeyboardInterrupt as stop: sys.exit(exit_code(stop))\n"
    )
    script = tmp_path / "train.py"
    script.write_text(code, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    checkpoint, log = tmp_path / "slope.checkpoint.safetensors", tmp_path / "slope.jsonl"
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, number)  # as a terminal and a cluster do: the workers get it too
    assert process.wait(timeout=30) == 128 + number
    last = json.loads(log.read_text().splitlines()[-1])
    assert _read_note(checkpoint)["step"] == last["step"] >= 19
    seconds = _read_note(checkpoint)["elapsed"]
    fit(Slope(), tmp_path, Budget(seconds / 60 + 0.005, checkpoint_every=0.2))
    assert json.loads(log.read_text().splitlines()[-1])["step"] > last["step"]
    assert not list(tmp_path.glob("*.part"))


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    assert lr_at(Slope(), 0, 0.0) == pytest.approx(0.01)
    assert lr_at(Slope(), 100, 0.39) == 0.05
    assert lr_at(Slope(), 100, 0.7) == pytest.approx(0.025)
    assert lr_at(Slope(), 100, 1.0) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0.0}, "minutes must be positive, not 0"),
        ({"num_images": 99}, "num_images must be at least 100, not 99"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"snr_floor": -1.0}, "snr_floor must not be negative"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WorldTraining(**options)
