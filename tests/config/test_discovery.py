"""Components are found by name in the package or in a file of your own, and errors say what to type instead."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from pathlib import Path

import pytest
from own_component import MINE

from limbeck.config.discovery import base_of, choices, find, name_of
from limbeck.distillation.critics.base import CriticConfig, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.noise import Noise
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import TwoStageTimesteps
from limbeck.distillation.timesteps.random import UniformTimesteps as UniformTimes
from limbeck.distillation.weights import UniformWeight as UniformWeight
from limbeck.distillation.weights import Weight
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.representations.base import RepresentationConfig
from limbeck.training.optimizers import SGD, Optimizer

BASES = (Method, RepresentationConfig, Timesteps, Weight, Noise, Optimizer, CriticConfig)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.mark.parametrize("base", BASES)
def test_every_choice_is_a_concrete_frozen_dataclass_found_by_its_name(base: type) -> None:
    found = choices(base)
    assert found
    for name, cls in found.items():
        assert is_dataclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
        assert cls.__dataclass_params__.frozen
        assert find(base, name) is cls
        assert name_of(cls) == name


def test_no_file_of_a_package_is_left_out() -> None:
    files = {p.stem for p in (Path(inspect.getfile(SDS)).parent).glob("*.py")} - {"__init__"}
    assert {cls.__module__.split(".")[-1] for cls in choices(Method).values()} == files


@pytest.mark.parametrize("name", ["twostage", "TwoStage", "two-stage", "two_stage", "TWO-STAGE"])
def test_spellings(name: str) -> None:
    assert find(Timesteps, name) is TwoStageTimesteps


def test_one_name_means_another_class_for_another_base() -> None:
    assert find(Timesteps, "uniform") is UniformTimes
    assert find(Weight, "uniform") is UniformWeight
    assert find(Optimizer, "sgd") is SGD
    assert find(CriticConfig, "exact") is ExactCritic


def test_unknown_name_says_the_nearest_and_all() -> None:
    with pytest.raises(
        ValueError,
        match=r"'twostge'.* Did you mean twostage\? Accepted: dreamtime, fixed, .*twostage, uniform",
    ) as caught:
        find(Timesteps, "twostge")
    assert "path/to/file.py:ClassName" in str(caught.value)


def test_base_of() -> None:
    assert base_of(Method) is Method
    assert base_of(Method | None) is Method
    assert base_of(CriticTraining) is CriticTraining
    assert (
        base_of(float) is None
        and base_of(tuple[str, ...]) is None
        and base_of(float | None) is None
    )


def test_own_file(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = find(Method, f"{mine}:Mine")
    assert issubclass(cls, Method) and cls().pull == 0.5
    assert find(Method, f"{mine}:Mine") is cls, (
        "a second look must give the same class, or experiments would not be equal"
    )
    assert find(Method, str(mine)) is cls, "one class needs no name"
    monkeypatch.chdir(mine.parent)
    assert find(Method, "mine.py:Mine") is cls
    assert name_of(cls) == f"{mine.resolve()}:Mine"


def test_an_edited_file_is_read_again(mine: Path) -> None:
    old = find(Method, f"{mine}:Mine")
    mine.write_text(MINE.replace("0.5", "0.7"))
    new = find(Method, f"{mine}:Mine")
    assert (old().pull, new().pull) == (0.5, 0.7)


def test_a_class_already_imported_is_the_one_found() -> None:
    file = inspect.getfile(VSD)
    assert find(Method, f"{file}:VSD") is VSD


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            MINE,
            "Mein",
            r"no method in .*mine.py is called 'Mein'. Did you mean Mine\? Accepted: Mine",
        ),
        ("x = 1", "Mine", "Accepted: none"),
        (
            "class Mine: pass",
            "Mine",
            r"is no method: let it inherit from limbeck.methods.base.Method",
        ),
        (
            "from limbeck.methods.base import Method\nclass Mine(Method): pass",
            "Mine",
            "lacks __call__",
        ),
        (MINE.replace("@dataclass(frozen=True)\n", ""), "Mine", "no dataclass"),
        ("import nowhere_at_all", "Mine", "cannot be imported: ModuleNotFoundError"),
        ("def broken(:", "Mine", "cannot be imported: SyntaxError"),
        ("x = 1", "", "must be followed by :ClassName; it defines no method"),
    ],
)
def test_own_file_that_does_not_fit(tmp_path: Path, content: str, name: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        find(Method, f"{path}:{name}")


def test_own_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*nothing.py"):
        find(Method, f"{tmp_path / 'nothing.py'}:Mine")
