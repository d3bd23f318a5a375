"""Every option of every component, with values that it may not accept."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest

from limbeck.cli.commands.export import ExportOptions
from limbeck.cli.commands.view import ViewOptions
from limbeck.config.checks import check_options
from limbeck.config.discovery import base_of, choices, field_name, options_of
from limbeck.config.yaml import build, from_yaml, to_yaml
from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.weights import LambdaWeight
from limbeck.graphics.export.export import MeshExportOptions
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.representations.latents import Latents
from limbeck.runs.edit_options import EditOptions
from limbeck.runs.report.schedule_plots import SchedulePlotOptions
from limbeck.runs.run_command import RunOptions
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.world.training_options import WorldTraining

#: as typed: not finite, negative, zero, too large for float32 and 64 bits, empty, of another type
VALUES = (
    "nan",
    "-nan",
    "inf",
    "-inf",
    "1e39",
    "1" + "0" * 25,
    "-1",
    "-0.5",
    "0",
    "1.5",
    "7",
    "1e30",
    "",
    "x",
    "true",
    "none",
)
#: options that a class needs besides the one that is tried
NEEDED: dict[type, dict[str, Any]] = {
    Experiment: {"prompts": ["a"]},
    Sampling: {"prompts": ["a"]},
    ExportOptions: {"runs": ["r"]},
    ViewOptions: {"runs": ["r"]},
    SchedulePlotOptions: {"names": ["weights"]},
}


def option_classes() -> Iterator[tuple[type, str]]:
    """Every dataclass of options, each once, with the flag it belongs to."""
    commands = [*NEEDED, RunOptions, MeshExportOptions, EditOptions, WorldTraining]
    left = [(cls, "--") for cls in (*commands, *choices(Study).values())]
    seen = set[type]()
    while left:
        cls, path = left.pop(0)
        if cls in seen:
            continue
        seen.add(cls)
        yield cls, path
        for name, (hint, _) in options_of(cls).items():
            base = base_of(hint)
            if base is not None:
                flag = f"{path.rstrip('-')}.{name}" if path != "--" else f"--{name}"
                found = choices(base).values() if inspect.isabstract(base) else [base]
                left += [(component, flag) for component in found]


def needed(cls: type) -> dict[str, Any]:
    lacking = (n for n, (_, default) in options_of(cls).items() if default is dataclasses.MISSING)
    return NEEDED.get(cls) or dict.fromkeys(lacking, "0.5")


CASES = [pytest.param(cls, path, id=cls.__name__) for cls, path in option_classes()]


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize(("cls", "path"), CASES)
def test_a_value_is_accepted_or_refused_in_one_line(cls: type, path: str) -> None:
    found = options_of(cls)
    for name in found:
        for text in VALUES:
            try:
                made = build(cls, {**needed(cls), name: text}, path)
            except ValueError as error:
                message = str(error)
                assert "\n" not in message and len(message) < 2000, message
                continue
            for number in numbers_in(getattr(made, field_name(name))):
                assert math.isfinite(number) and abs(number) < 3.41e38, (name, text)
            check_options(made)


@pytest.mark.parametrize(("cls", "path"), CASES)
def test_a_number_that_is_not_finite_is_refused_with_option_and_value(cls: type, path: str) -> None:
    for name, (hint, _) in options_of(cls).items():
        if hint not in (float, int, float | None, int | None):
            continue
        for text in ("nan", "inf", "-inf", "1e39"):
            with pytest.raises(ValueError) as error:
                build(cls, {**needed(cls), name: text}, path)
            flag = name.replace("_", "-") if path.startswith("--") else name
            assert flag in str(error.value) and repr(text) in str(error.value)


PYTHON = [
    (lambda bad: Experiment(("a",), method=SDS(bad)), "method.guidance"),
    (lambda bad: Experiment(("a",), method=VSD(critic_guidance=bad)), "method.critic_guidance"),
    (lambda bad: Experiment(("a",), representation=Latents(lr=bad)), "representation.lr"),
    (lambda bad: Experiment(("a",), weight=LambdaWeight(bad)), "weight.power"),
    (lambda bad: Experiment(("a",), optimizer=Adam(eps=bad)), "optimizer.eps"),
    (lambda bad: EditOptions(lr=bad), "lr"),
    (lambda bad: choices(Study)["guidance"](guidance_scales=(7.5, bad)), "guidance_scales"),
    (lambda bad: WorldTraining(snr_floor=bad), "snr_floor"),
]


@pytest.mark.parametrize(("make", "option"), PYTHON)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e39])
def test_python_refuses_what_the_command_line_refuses(make: Any, option: str, bad: Any) -> None:
    with pytest.raises(ValueError) as error:
        make(bad)
    message = str(error.value)
    assert f"{option} must be" in message and "finite number" in message and str(bad) in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"seed": 2**32}, f"seed must be at most {2**32 - 1}, not {2**32}"),
        ({"steps": 2.5}, "steps must be an integer, not 2.5"),
        ({"steps": 1e3}, "steps must be an integer, not 1000.0"),
        ({"steps": True}, "steps must be an integer, not True"),
        ({"steps": 10**20}, "steps must be an integer of at most 64 bits, not 1000"),
        ({"steps": [0, 1]}, "steps must be an integer of at most 64 bits, not [0, 1]"),
        ({"precision": "float8"}, "precision must be one of auto, float32"),
        ({"method": "sds"}, "method must be one of asd, "),
    ],
)
def test_types_and_ranges_in_python(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        Experiment(("a",), **changes)
    assert message in str(error.value)


def test_seeds_have_one_range_everywhere() -> None:
    for cls in (Experiment, Sampling, EditOptions, WorldTraining, choices(Study)["guidance"]):
        for seed in ("-1", str(2**32)):
            with pytest.raises(ValueError, match=r"--seed must be at (least|most)"):
                build(cls, {**needed(cls), "seed": seed}, "--")
        assert build(cls, {**needed(cls), "seed": str(2**32 - 1)}, "--").seed == 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Capped:
    """An option without limit by default.

    Attributes:
        cap: largest value.
        rate: a rate.
    """

    cap: float = math.inf
    rate: float = 0.5


def test_a_default_that_is_not_finite_says_that_such_values_are_meant() -> None:
    assert from_yaml(Capped, to_yaml(Capped())) == Capped()
    check_options(Capped())
    assert build(Capped, {"cap": "inf"}) == Capped()
    with pytest.raises(ValueError, match="rate must be a finite number, not 'inf'"):
        build(Capped, {"rate": "inf"})


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(ValueError) as error:
        build(Capped, {"rate": "9" * 5000})
    assert len(str(error.value)) < 200 and "rate must be a finite number" in str(error.value)
