"""Options of the command line: order, spellings, types, defaults, and the help text of each."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from all_options import option_classes
from own_component import OWN_METHOD

from limbeck.cli.commands.report import ReportOptions
from limbeck.config.command_line import (
    documentation,
    help_text,
    list_options,
    parse,
    without_options,
)
from limbeck.config.discovery import options_of
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import LambdaWeight, Weight
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.runs.run_command import RunOptions
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD


def experiment_of(*argv: str, default: Experiment | None = None) -> Experiment:
    sections = [(Experiment, default), (RunOptions, None)]
    return parse(sections, argv, "limbeck run", "", "prompts")[0]


@pytest.mark.parametrize(
    "line",
    [
        "--steps 7 a b --method vsd --method.guidance 3 --method.critic=exact "
        "--timesteps two-stage --particles 4 --seed 1",
        "--method.critic=exact --method.guidance=3 --seed=1 --timesteps=TwoStage "
        "--particles=4 --method=VSD a b --steps 7",
    ],
)
def test_options_come_in_any_order(line: str) -> None:
    expected = Experiment(
        ("a", "b"),
        method=VSD(guidance=3.0, critic=ExactCritic()),
        timesteps=TwoStageTimesteps(),
        particles=4,
        steps=7,
        seed=1,
    )
    assert experiment_of(*line.split()) == expected


def test_a_chosen_method_takes_its_own_defaults() -> None:
    assert experiment_of("a", "--method", "vsd").method == VSD()
    default = Experiment(("x",), method=SDS(3.0))
    assert experiment_of("a", "--method", "vsd", default=default).method == VSD()


def test_a_configuration_gives_the_defaults() -> None:
    default = Experiment(("x",), method=VSD(guidance=3.0, critic=LoRACritic(rank=2)), steps=9)
    assert experiment_of(default=default) == default
    changed = experiment_of("--method.critic-guidance", "2", "--seed", "5", default=default)
    assert changed == Experiment(
        ("x",),
        method=VSD(guidance=3.0, critic_guidance=2.0, critic=LoRACritic(rank=2)),
        steps=9,
        seed=5,
    )
    assert experiment_of("y", default=default).prompts == ("y",)
    same = experiment_of("--method", "vsd", default=default)
    assert same == default, "choosing the class of the default must change nothing"


def test_nested_options_and_underscores() -> None:
    line = "a --method vsd --method.critic.training.timesteps.t-max .5 --method.critic_guidance 2"
    assert experiment_of(*line.split()).method == VSD(
        critic_guidance=2.0,
        critic=AutoCritic(training=CriticTraining(timesteps=UniformTimesteps(0.0, 0.5))),
    )


def test_values_that_begin_with_a_hyphen() -> None:
    assert experiment_of("a", "--method.guidance", "-3").method == SDS(-3.0)
    assert experiment_of("a", "--negative-prompt=--blurred").negative_prompt == "--blurred"
    assert experiment_of("a", "--negative-prompt", "").negative_prompt == ""
    assert experiment_of("--steps", "3", "--", "--odd prompt", "b").prompts == ("--odd prompt", "b")
    assert experiment_of("a=b", "-", "-3 degrees").prompts == ("a=b", "-", "-3 degrees")
    argv = ["a", "--optimizer", "sgd", "--optimizer.momentum", "1e-3"]
    assert experiment_of(*argv).optimizer == SGD(momentum=1e-3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a --steps 3 --steps=4", "--steps is given twice (3 and 4): give it once"),
        ("a --method vsd --method sds", "--method is given twice (vsd and sds): give it once"),
        ("a --films --no-films", "--films is given twice (true and false): give it once"),
        ("a --representation.size 32 32 --representation.size 64 64", "write all of its values"),
    ],
)
def test_an_option_has_one_value(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        experiment_of(*line.split())


def test_an_option_may_be_repeated() -> None:
    line = "a --steps 3 --steps=3 --no-films --films false"
    assert experiment_of(*line.split()) == Experiment(("a",), steps=3)


def test_words_without_some_options() -> None:
    words = ["a", "--out", "x", "--seed=1", "--out=y", "--", "--out"]
    assert without_options(words, "--out") == ["a", "--seed=1", "--", "--out"]


def test_a_method_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN_METHOD)
    method = experiment_of("a", "--method.pull", "0.75", "--method", f"{path}:Mine").method
    assert type(method).__name__ == "Mine" and method.pull == 0.75  # type: ignore[attr-defined]


def test_positional_paths() -> None:
    argv = ["a", "--out", "x.html", "b"]
    (options,) = parse([(ReportOptions, None)], argv, "limbeck report", "", "folders")
    assert options == ReportOptions((Path("a"), Path("b")), Path("x.html"))


@dataclass(frozen=True)
class EveryType:
    """One option of every type.

    Attributes:
        source: an image.
    """

    source: Path
    box: tuple[float, float] = (0.0, 1.0)
    rates: tuple[float, ...] = (0.1,)
    loud: bool = False
    quiet: bool = True
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    weight: Weight | None = None


def read_line(line: str) -> EveryType:
    return parse([(EveryType, None)], line.split())[0]


def test_options_of_every_type() -> None:
    assert read_line("--source x.png") == EveryType(Path("x.png"))
    line = (
        "--source=x.png --box -1 2 --rates 1 2 3 --loud --no-quiet --kind b --limit 3 "
        "--weight lambda --weight.power 2"
    )
    expected = EveryType(
        Path("x.png"), (-1.0, 2.0), (1.0, 2.0, 3.0), True, False, "b", 3, LambdaWeight(2.0)
    )
    assert read_line(line) == expected
    assert read_line("--source .") == EveryType(Path("."))
    line = "--loud true --source x --quiet FALSE --limit none"
    assert read_line(line) == EveryType(Path("x"), loud=True, quiet=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--loud", "--source is missing; it is a path"),
        ("--source=", "--source must be a path, not ''"),
        ("--source x --loud=often", "--loud must be true or false, not 'often'"),
        ("--source x --box 1", "--box must be 2 values, not ['1']"),
        ("--source x --rates a b", "--rates must be a list, each a number, not ['a', 'b']"),
        ("--source x --kind c", "--kind must be one of a, b, not 'c'"),
        ("--source x --limit few", "--limit must be an integer or none, not 'few'"),
        ("--source x --box", "--box must be 2 values, not []"),
        ("--source x --weight.power 2", "Accepted: none. 'power' belongs to --weight lambda"),
        ("--source x --wieght.power 2", "no option is called '--wieght'. Did you mean --weight?"),
        ("--source x --quietly", "no option is called '--quietly'. Did you mean --quiet?"),
        ("--source x y", "'y' belongs to no option; options are written --NAME VALUE"),
    ],
)
def test_refused_values(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_line(line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a --runtime.vae-slicing maybe", "--runtime.vae-slicing must be true or false, not"),
        ("--runtime.vae-slicing maybe", "--runtime.vae-slicing must be true or false, not"),
        ("--runtime.vae-slicing 1 a", "--runtime.vae-slicing must be true or false, not '1'"),
        ("a --no-runtime.vae-slicing no", "no option is called"),
        ("a --representation.size 64 64 64", "--representation.size takes 2 values, and '64'"),
        ("--representation.size 64 64 64", "--representation.size takes 2 values, and '64'"),
        ("--steps 3 4 a", "--steps takes one value, and '4' follows"),
        ("a --steps 3 b", "'b' follows --steps, but the prompts stand elsewhere"),
        ("a --negative-prompt bad hair", "'hair' follows --negative-prompt, but the prompts stand"),
        ("a --method=sds b", "'b' follows --method, but the prompts stand elsewhere"),
        ("a --method.guidance linear 50 1", "in quotes, --method.guidance 'linear 50 1'"),
        ("--method.guidance 15 until .5 then 7 --seed 1", "--method.guidance '15 until .5 then 7'"),
        ("--no-films false a", "--no-films takes no value: give --films true or --films false"),
        ("a --no-films 1", "--no-films takes no value: give --films true or --films false"),
        ("a --no-films=x", "--no-films takes no value: give --films true or --films false"),
        (
            "a \u2013seed 3",
            "'\u2013seed' begins with a dash that is no hyphen: options are written",
        ),
        ("a --steps 3 \u2014-seed 3", "'\u2014-seed' begins with a dash that is no hyphen"),
        (
            "-dark",
            "no option is called '-dark'; a prompt that begins with - stands behind --: limb",
        ),
        ("-seed 3", "no option is called '-seed'. Did you mean --seed?"),
    ],
)
def test_a_value_behind_an_option_is_not_taken_for_a_prompt(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        experiment_of(*line.split())


def test_a_prompt_that_begins_with_a_dash() -> None:
    with pytest.raises(ValueError, match="stands behind --: limbeck run -- '-dark mug'"):
        experiment_of("-dark mug")
    dashes = ("\u2013", "\u2014 a mug", "\u22123 degrees")
    assert experiment_of(*dashes, "--no-films", "--", "\u2013mug").prompts == (*dashes, "\u2013mug")


@pytest.mark.parametrize(
    "line",
    ["a b --steps 3", "--steps 3 a b", "--representation.size 64 64 a b", "--steps 3 -- a b"],
)
def test_prompts_stand_together(line: str) -> None:
    assert experiment_of(*line.split()).prompts == ("a", "b")


# help


def test_docstrings_become_help() -> None:
    summary, texts = documentation(VSD)
    assert summary and "guidance:" not in summary and set(options_of(VSD)) <= set(texts)
    assert "decay_start" in documentation(SGD)[1], "a field of the base class"


@pytest.mark.parametrize("cls", option_classes(), ids=lambda c: c.__name__)
def test_every_option_of_every_component_has_its_own_help(cls: type) -> None:
    texts = documentation(cls)[1]
    own = {name: texts.get(name, "") for name in options_of(cls)}
    assert not [name for name, text in own.items() if not text.strip()], "without help"
    shared = [text for text, count in Counter(own.values()).items() if count > 1]
    assert not shared, "one text for several options"


def test_the_test_of_help_covers_every_component() -> None:
    names = {cls.__name__ for cls in option_classes()}
    assert {"Experiment", "VSD", "LoRACritic", "NeRF", "Model", "RuntimeOptions", "Orbit"} <= names
    assert len(names) > 100


def test_help_text_names_choices_and_default() -> None:
    options = {option.flag: option for option in list_options(Experiment)}
    assert "One of asd, bridge," in help_text(options["--method"])
    assert help_text(options["--method"]).endswith("or FILE.py:CLASS. (default: sds)")
    assert help_text(options["--steps"]).endswith("(default: 500)")
    assert "limbeck models lists" in help_text(options["--model"])
