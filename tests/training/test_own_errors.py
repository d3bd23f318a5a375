"""Mistakes inside a component of one's own are said in one line, with class, file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from refusals import refused

from limbeck.cli.main import main
from limbeck.config.discovery import find
from limbeck.methods.base import Method
from limbeck.priors.exact import colored_shapes
from limbeck.runs.notices_file import read_notices
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.network_calls import count_network_calls
from limbeck.training.trainer import Run

HEAD = """
from dataclasses import dataclass
import torch
from limbeck.diffusion.guidance import guided_prediction
from limbeck.distillation.noise import Noise
from limbeck.distillation.weights import Weight
from limbeck.methods.base import StatelessMethod

"""
CALL = "    def __call__(self, prior, inputs, state):\n"
PREDICT = (
    "        eps = guided_prediction(prior, inputs.xt, inputs.t, inputs.conditions, 7.5).eps\n"
)
METHOD = f"@dataclass(frozen=True)\nclass Mine(StatelessMethod):\n{CALL}{PREDICT}"
NO_RESHAPE = METHOD + "        return inputs.schedule.alpha(inputs.t) * (eps - inputs.eps)\n"


def write(folder: Path, text: str) -> str:
    file = folder / "mine.py"
    file.write_text(HEAD + text)
    return f"{file}:Mine"


def run_words(*words: str) -> list[str]:
    return ["run", "red disc", "--model", "gaussians", "--particles", "2", "--dry-run", *words]


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        (
            "method",
            METHOD.replace(", state):", "):") + "        return eps\n",
            ":11, in Mine.__call__: TypeError: Mine.__call__() takes 3 positional arguments but 4",
        ),
        ("method", NO_RESHAPE, ":13, in Mine.__call__: RuntimeError: The size of tensor a (2)"),
        (
            "method",
            METHOD + "        return inputs.nothing\n",
            ":13, in Mine.__call__: AttributeError: 'StepInputs' object has no attribute 'nothing'",
        ),
        ("method", METHOD + "        assert False\n", ":13, in Mine.__call__: AssertionError"),
        (
            "method",
            METHOD + "        self.old = eps\n",
            ":13, in Mine.__call__: FrozenInstanceError: cannot assign to field 'old'; its options "
            "are fixed: what a method keeps between steps is its state",
        ),
        (
            "method",
            METHOD + "        return prior(inputs.xt)\n",
            ":13, in Mine.__call__: TypeError: ",
        ),
        (
            "method",
            METHOD + "        raise ValueError('too small')\n",
            ":13, in Mine.__call__: too small",
        ),
        (
            "method",
            METHOD
            + "        return eps\n    def init(self, prior, setup):\n        return {}['a']\n",
            ":15, in Mine.init: KeyError: 'a'",
        ),
        (
            "method",
            METHOD + "        return inputs.rng.normal('n', inputs.x0.shape)\n",
            ":13, in Mine.__call__: TypeError: rng.normal(purpose, *shape) takes a purpose",
        ),
        (
            "weight",
            "@dataclass(frozen=True)\nclass Mine(Weight):\n"
            "    def __call__(self, schedule, t):\n        return t[5]\n",
            ":12, in Mine.__call__: IndexError: ",
        ),
        (
            "noise",
            "@dataclass(frozen=True)\nclass Mine(Noise):\n"
            "    def __call__(self, rng, shape):\n        return rng.normal(*shape)\n",
            ":12, in Mine.__call__: TypeError: rng.normal(purpose, *shape) takes a purpose",
        ),
    ],
)
def test_an_error_is_one_line(
    option: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write(tmp_path, text)
    error = refused(capsys, *run_words(f"--{option}", own))
    assert error.startswith(own.removesuffix(":Mine") + message), error


def test_the_traceback_is_kept_for_python(tmp_path: Path) -> None:
    method = find(Method, write(tmp_path, METHOD + "        return inputs.nothing\n"))()
    run = Run(Experiment(("red disc",), method=method), colored_shapes(8))
    with pytest.raises(ValueError, match=r"mine.py:13, in Mine.__call__") as error:
        run.advance()
    assert isinstance(error.value.__cause__, AttributeError)


def test_counting_passes_takes_several_rows_with_different_times(tmp_path: Path) -> None:
    own = write(tmp_path, NO_RESHAPE)
    prior = colored_shapes(8)
    with pytest.raises(ValueError, match=r"mine.py:13, in Mine.__call__: a tensor \[3\] beside"):
        count_network_calls(find(Method, own)(), prior, "red disc", source="")
    right = NO_RESHAPE.replace("(inputs.t) *", "(inputs.t)[:, None, None, None] *")
    method = find(Method, write(tmp_path, right))()
    calls = count_network_calls(method, prior, "red disc", source="")
    assert calls.calls == (1, 1) and calls.rows == (2, 2)


@pytest.mark.parametrize(
    ("option", "text", "what"),
    [
        ("method", METHOD + "        return eps / 0\n", "the direction the method returned"),
        (
            "weight",
            "@dataclass(frozen=True)\nclass Mine(Weight):\n"
            "    def __call__(self, schedule, t):\n        return (t - 2).log()\n",
            "the weight w(t)",
        ),
        (
            "noise",
            "@dataclass(frozen=True)\nclass Mine(Noise):\n"
            "    def __call__(self, rng, shape):\n        return rng.normal('n', *shape) / 0\n",
            "the noise",
        ),
    ],
)
def test_what_is_not_finite_is_named(
    option: str, text: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write(tmp_path, text)
    error = refused(capsys, *run_words(f"--{option}", own))
    assert error.startswith(f"step 0: {what} ({own}) is not finite: look in it for a division")


def test_a_method_without_network_calls_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write(
        tmp_path,
        f"@dataclass(frozen=True)\nclass Mine(StatelessMethod):\n{CALL}        return "
        "inputs.x0.detach()\n",
    )
    out, words = tmp_path / "run", ["--method", own, "--model", "gaussians", "--steps", "12"]
    assert main(["run", "red disc", *words, "--out", str(out)]) == 0
    message = f"the method {own} has not called the network in 10 steps, so that"
    assert capsys.readouterr().err.count(message) == 1
    assert sum(message in notice for notice in read_notices(out)) == 1
    called = write(tmp_path, METHOD + "        return eps - inputs.eps\n")
    out, words = tmp_path / "other", ["--method", called, "--model", "gaussians", "--steps", "12"]
    assert main(["run", "red disc", *words, "--out", str(out)]) == 0
    assert "has not called" not in capsys.readouterr().err and not read_notices(out)


@pytest.mark.parametrize(
    "words", [("n", torch.Size([3, 4])), (3, 4), ("n", 2.0), ("n", -1), ("n", [2])]
)
def test_what_random_numbers_take(words: tuple[object, ...]) -> None:
    rng = RowRandom.initial(0, 2)
    for draw in (rng.normal, rng.uniform):
        with pytest.raises(TypeError, match=r"takes a purpose in words and the shape of one row"):
            draw(*words)  # type: ignore[arg-type]
    assert rng.normal("n").shape == (2,) and rng.uniform("n", 3, 0).shape == (2, 3, 0)
