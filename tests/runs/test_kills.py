"""Sixty kills at random moments, a third of them inside checkpoint writing: nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from limbeck.runs.metrics_log import read_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals"),
]
COMMON = ["--device", "cpu", "--precision", "float32"]
TOY = ["--model", "gaussians", *COMMON]
RECORD = ["--checkpoint-every", "3", "--image-every", "7"]
EDIT = ["--source-prompt", "red disc", "--target-prompt", "blue disc"]
#: command line without --out; IMAGE is an image file
COMMANDS = {
    "2D": ["run", "red disc", *TOY, *RECORD, "--steps", "60", "--method", "vsd"],
    "embedded": ["run", "a red mug", *COMMON, *RECORD, "--steps", "12", "--method", "vsd"],
    "3D": ["run", "red disc", *TOY, *RECORD, "--steps", "9", "--representation", "gaussian-splats"],
    "edit": ["edit", "IMAGE", *EDIT, *TOY, "--steps", "40"],
    "study": ["study", "guidance", *TOY, "--prompts", "red disc", "--steps", "15"],
}
#: kills itself before, in the middle of, or after the K-th replacement of a checkpoint
IN_CHECKPOINT = """
import os, signal, sys
from limbeck.cli.main import main
count, moment, replace = int(sys.argv[1]), sys.argv[2], os.replace
def replaced(source, target):
    global count
    count -= str(target).endswith("checkpoint.safetensors")
    if count == 0 and moment == "torn":
        os.truncate(source, os.path.getsize(source) // 2)
    if count == 0 and moment != "after":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replaced
sys.exit(main(sys.argv[3:]))
"""


def start(argv: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(argv: list[str]) -> None:
    process = start(["-m", "limbeck", *argv])
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors


def results(folder: Path) -> dict[str, torch.Tensor | bytes]:
    """Tensors of all checkpoints, final images and steps of metrics below a folder."""
    found: dict[str, torch.Tensor | bytes] = {}
    for path in sorted(folder.rglob("checkpoint.safetensors")):
        found |= {f"{path.relative_to(folder)} {k}": v for k, v in load_file(path).items()}
    for path in sorted(folder.rglob("final/*.png")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.rglob("metrics.jsonl")):
        steps = [row["step"] for row in read_metrics(path)]
        assert steps == list(range(1, len(steps) + 1))
        found[str(path.relative_to(folder))] = bytes(len(steps))
    return found


def assert_same(folder: Path, whole: Path) -> None:
    a, b = results(folder), results(whole)
    assert a.keys() == b.keys() and len(a) > 2
    for name, value in a.items():
        other = b[name]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert same, name
    assert not list(folder.rglob("*.part")) or (folder / "report.html").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Argument list, folder and seconds of each uninterrupted command."""
    root = tmp_path_factory.mktemp("whole")
    image = root / "in.png"
    Image.new("RGB", (24, 24), "red").save(image)
    found = {}
    for name, command in COMMANDS.items():
        argv = [str(image) if word == "IMAGE" else word for word in command]
        begin = time.monotonic()
        finish([*argv, "--out", str(root / name)])
        found[name] = argv, root / name, time.monotonic() - begin
    return found


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", COMMANDS)
def test_kills_at_random_moments(whole, kind, tmp_path):
    """Eight per kind: SIGKILL and SIGTERM, each of two folders killed four times."""
    argv, reference, seconds = whole[kind]
    rng = random.Random(kind)
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        for number in (signal.SIGKILL, signal.SIGTERM) * 2:
            process = start(["-m", "limbeck", *argv, "--out", str(folder)])
            time.sleep(rng.uniform(0.3, 1.0) * seconds)
            process.send_signal(number)
            process.communicate(timeout=60)
            assert process.returncode in (0, -9, 143, -15)
        finish([*argv, "--out", str(folder)])
        assert_same(folder, reference)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("moment", ["before", "torn", "after", "before"])
@pytest.mark.parametrize("kind", COMMANDS)
def test_kills_inside_checkpoint_writing(whole, kind, moment, tmp_path):
    argv, reference, _ = whole[kind]
    count = random.Random(kind + moment).randint(1, 3)
    out = ["--out", str(tmp_path / "run")]
    process = start(["-c", IN_CHECKPOINT, str(count), moment, *argv, *out])
    process.communicate(timeout=280)
    finish([*argv, *out])
    assert_same(tmp_path / "run", reference)


@pytest.mark.timeout(600)
def test_two_runs_at_once_in_one_folder_and_both_killed(whole, tmp_path):
    argv, reference, seconds = whole["2D"]
    out = ["--out", str(tmp_path / "run")]
    for delay in (0.5, 0.8):
        pair = [start(["-m", "limbeck", *argv, *out]) for _ in range(2)]
        time.sleep(delay * seconds)
        for process in pair:
            process.kill()
            process.communicate(timeout=60)
    finish([*argv, *out])
    assert_same(tmp_path / "run", reference)
