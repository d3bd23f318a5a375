"""Small experiments recorded into run folders."""

import io
import json

import torch
from rich.console import Console
from safetensors.torch import load_file

from limbeck.methods.sds import SDS
from limbeck.priors.exact import coloured_shapes
from limbeck.runs.recorder import record
from limbeck.training.experiment import Experiment

PROMPTS = ("a red disc", "a blue ring")


EXACT = (
    "step",
    "evaluations",
    "residual",
    "gradient",
    "parameters",
    "weight",
    "t",
    "times",
    "gradients",
)


def experiment(**changes):
    return Experiment(
        **{
            "prompts": PROMPTS,
            "model": "gaussians",
            "method": SDS(7.5),
            "particles": 2,
            "steps": 12,
        }
        | changes
    )


def go(e, folder, **more):
    console = Console(file=io.StringIO(), width=200)
    report = record(e, coloured_shapes(size=12), folder, console=console, **more)
    return report, console.file.getvalue()


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a, b):
    """Whether two run folders hold the same result, bit by bit."""
    one, two = load_file(a / "checkpoint.safetensors"), load_file(b / "checkpoint.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [[line[name] for name in EXACT] for line in lines(a)] == [
        [line[name] for name in EXACT] for line in lines(b)
    ]
    pictures = [[p.name for p in sorted((f / "images").iterdir())] for f in (a, b)]
    assert pictures[0] == pictures[1]
    for name in (*(f"images/{name}" for name in pictures[0]), "final.png", "scores.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
