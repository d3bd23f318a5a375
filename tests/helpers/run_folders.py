"""Small experiments recorded into run folders."""

import io
import json

import torch
from rich.console import Console
from safetensors.torch import load_file

from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.training.experiment import Experiment

PROMPTS = ("a red disc", "a blue ring")

#: metrics that must be bit-identical in two recordings of a run
DETERMINISTIC_METRICS = (
    "step",
    "evaluations",
    "residual",
    "gradient",
    "grad_norm",
    "weight",
    "t",
    "row_t",
    "row_gradient",
)


def experiment(**changes):
    settings = {
        "prompts": PROMPTS,
        "model": "gaussians",
        "method": SDS(7.5),
        "particles": 2,
        "steps": 12,
    }
    return Experiment(**settings | changes)


def record_run(e, folder, command="", logger=None, **options):
    """Record an experiment on exact scores; returns the report and the printed text."""
    console = Console(file=io.StringIO(), width=200)
    recording = RecordingOptions(**options)
    report = record(e, colored_shapes(size=12), folder, recording, command, console, logger)
    return report, console.file.getvalue()


def metrics_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(a, b):
    """Assert that two run folders hold the same result bit by bit."""
    one, two = load_file(a / "checkpoint.safetensors"), load_file(b / "checkpoint.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    metrics = [
        [[line[name] for name in DETERMINISTIC_METRICS] for line in metrics_lines(folder)]
        for folder in (a, b)
    ]
    assert metrics[0] == metrics[1]
    names = [[path.name for path in sorted((folder / "images").iterdir())] for folder in (a, b)]
    assert names[0] == names[1]
    for name in (*(f"images/{name}" for name in names[0]), "final.png", "scores.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
