"""Components are found by name in the package or in a file; errors say what is accepted."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from pathlib import Path

import pytest
from own_component import OWN_METHOD

from limbeck.config.discovery import base_of, choices, find, name_of
from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import CriticConfig, CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.noise import Noise
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import UniformWeight, Weight
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.representations.base import RepresentationConfig
from limbeck.training.optimizers import SGD, Optimizer

BASES = (Method, RepresentationConfig, Timesteps, Weight, Noise, Optimizer, CriticConfig)


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(OWN_METHOD)
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


def test_every_module_of_a_package_is_searched() -> None:
    files = {p.stem for p in Path(inspect.getfile(SDS)).parent.glob("*.py")}
    found = {cls.__module__.split(".")[-1] for cls in choices(Method).values()}
    assert found == files - {"__init__", "base"}


@pytest.mark.parametrize("name", ["twostage", "TwoStage", "two-stage", "two_stage", "TWO-STAGE"])
def test_spellings(name: str) -> None:
    assert find(Timesteps, name) is TwoStageTimesteps


def test_one_name_means_another_class_for_another_base() -> None:
    assert find(Timesteps, "uniform") is UniformTimesteps
    assert find(Weight, "uniform") is UniformWeight
    assert find(Optimizer, "sgd") is SGD
    assert find(CriticConfig, "exact") is ExactCritic


def test_an_unknown_name_is_answered_with_the_most_similar_and_all() -> None:
    message = (
        r"no timesteps is called 'twostge'. Did you mean two-stage\? "
        r"Accepted: dreamtime, fixed, .*two-stage, uniform"
    )
    with pytest.raises(ValueError, match=message) as caught:
        find(Timesteps, "twostge")
    assert "path/to/file.py:ClassName" in str(caught.value)


def test_base_of() -> None:
    assert base_of(Method) is Method
    assert base_of(Method | None) is Method
    assert base_of(CriticTraining) is CriticTraining
    assert base_of(float) is None
    assert base_of(tuple[str, ...]) is None
    assert base_of(float | None) is None


def test_own_file(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = find(Method, f"{own_file}:Mine")
    assert issubclass(cls, Method) and cls().pull == 0.5
    assert find(Method, f"{own_file}:Mine") is cls, (
        "reading the file again must give the same class, or experiments would not be equal"
    )
    assert find(Method, str(own_file)) is cls, "a file with one class needs no name"
    monkeypatch.chdir(own_file.parent)
    assert find(Method, "mine.py:Mine") is cls
    assert name_of(cls) == f"{own_file.resolve()}:Mine"


def test_an_edited_file_is_read_again(own_file: Path) -> None:
    old = find(Method, f"{own_file}:Mine")
    own_file.write_text(OWN_METHOD.replace("0.5", "0.7"))
    new = find(Method, f"{own_file}:Mine")
    assert (old().pull, new().pull) == (0.5, 0.7)


def test_an_imported_class_is_found_by_its_file() -> None:
    file = inspect.getfile(VSD)
    assert find(Method, f"{file}:VSD") is VSD


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (
            OWN_METHOD,
            "Mein",
            r"no method in .*mine.py is called 'Mein'. Did you mean Mine\? Accepted: Mine",
        ),
        ("x = 1", "Mine", "Accepted: none"),
        (
            "class Mine: pass",
            "Mine",
            "is not a method: inherit from limbeck.methods.base.Method",
        ),
        (
            "from limbeck.methods.base import Method\nclass Mine(Method): pass",
            "Mine",
            "lacks __call__",
        ),
        (OWN_METHOD.replace("@dataclass(frozen=True)\n", ""), "Mine", "is not a dataclass"),
        (
            OWN_METHOD.replace("(frozen=True)", ""),
            "Mine",
            r"from a frozen one; decorate the class with @dataclass\(frozen=True\)",
        ),
        ("import nowhere_at_all", "Mine", "cannot be imported: ModuleNotFoundError"),
        ("def broken(:", "Mine", "cannot be imported: SyntaxError"),
        ("x = 1", "", "must be followed by :ClassName; it defines no method"),
    ],
)
def test_refused_files(tmp_path: Path, content: str, name: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        find(Method, f"{path}:{name}")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*nothing.py"):
        find(Method, f"{tmp_path / 'nothing.py'}:Mine")


def test_a_class_that_implements_a_protocol(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    methods = "\n".join(
        f"    def {name}(self): ..." for name in ("__call__", "encode", "decode", "condition")
    )
    path.write_text(f"class Mine:\n{methods}\nclass Partial:\n    def encode(self): ...")
    assert find(Prior, str(path)).__name__ == "Mine"
    with pytest.raises(ValueError, match=r"Partial in .* lacks __call__, condition, decode"):
        find(Prior, f"{path}:Partial")


def test_a_method_without_init_is_shown_the_class_that_has_it(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from limbeck.methods.base import Method\n\n\nclass Mine(Method):\n"
        "    def __call__(self, prior, inputs, state):\n        return inputs.x0\n",
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match=r"lacks init: .*limbeck\.methods\.base\.StatelessMethod"):
        find(Method, f"{path}:Mine")
