"""Numbers per row that run over columns in a method of one's own, which torch does not notice."""

from pathlib import Path

import pytest
import torch

from limbeck.config.discovery import find
from limbeck.diffusion.tensors import expand
from limbeck.methods.base import Method
from limbeck.priors.exact import colored_shapes
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.own_broadcasts import RowBroadcasts
from limbeck.training.trainer import Run

METHOD = """
from dataclasses import dataclass
import torch
from limbeck.diffusion.tensors import expand
from limbeck.methods.base import StatelessMethod

@dataclass(frozen=True)
class Mine(StatelessMethod):
    def __call__(self, prior, inputs, state):
        x, t = inputs.x0.detach(), inputs.t
        return RESULT
"""
WRONG = ("t * x", "x / t", "x - t[:, None]", "torch.where(t > 2, x, x) + x", "x.clone().mul_(t)")
RIGHT = ("expand(t, x) * x", "t[:, None, None, None] * x", "x * t.mean()", "x.lerp(x + 1, 0.5)")


def run_of(expression: str, particles: int, folder: Path) -> Run:
    """A run of 8 x 8 pixels."""
    path = folder / "mine.py"
    path.write_text(METHOD.replace("RESULT", expression), encoding="utf-8")
    method = find(Method, f"{path}:Mine")()
    e = Experiment(
        ("a red disc",), method=method, representation=Pixels(), particles=particles, steps=2
    )
    return Run(e, colored_shapes(8))


@pytest.mark.parametrize("expression", WRONG)
def test_they_are_refused_with_file_and_line(expression, tmp_path):
    with pytest.raises(ValueError, match=r"mine\.py:11, in Mine\.__call__: a tensor \[8(, 1)?\]"):
        run_of(expression, 8, tmp_path).advance()


@pytest.mark.parametrize("expression", RIGHT)
def test_numbers_of_the_shape_of_rows_are_accepted(expression, tmp_path):
    run = run_of(expression, 8, tmp_path)
    run.advance()
    found = run.advance()
    x, t = found.inputs.x0.detach(), found.inputs.t
    assert found.gradient.shape == eval(expression, {"x": x, "t": t, "expand": expand}).shape


def test_one_row_may_have_a_plain_number(tmp_path):
    run_of("t * x", 1, tmp_path).advance()


def test_code_that_is_not_of_the_user_is_left_alone():
    """Layers of a network may scale columns."""
    x, t = torch.ones(8, 3, 8, 8), torch.arange(8.0)
    with RowBroadcasts(x.shape):
        assert torch.equal(t * x, t.expand_as(x))
