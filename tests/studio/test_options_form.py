"""The form makes the command line that limbeck run understands."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.config.discovery import choices
from limbeck.methods.base import Method
from limbeck.methods.vsd import VSD
from limbeck.runs.run_command import read_run_command
from limbeck.studio.options_form import BASICS, OptionsForm
from limbeck.training.presets.base import Preset


def test_an_empty_form_is_the_command_without_options() -> None:
    form = OptionsForm(("a red mug",))
    assert form.command == "limbeck run 'a red mug'"
    assert form.read() == read_run_command(["a red mug"])


def test_values_are_options_of_the_command() -> None:
    form = OptionsForm(("a red mug", "a yellow duck"))
    form.set("--method", "vsd")
    form.set("--method.critic-guidance", "2")
    form.set("--method.guidance", "linear 100 7.5")
    form.set("--particles", "4")
    form.set("--films", "false")
    form.set("--representation.size", "32 32")
    assert shlex.split(form.command)[2:] == form.words
    command = form.read()
    method = command.experiment.method
    assert isinstance(method, VSD) and method.critic_guidance == 2
    assert str(method.guidance) == "linear 100 7.5"
    assert command.experiment.prompts == ("a red mug", "a yellow duck")
    assert command.experiment.particles == 4 and not command.options.films
    assert command.experiment.representation.size == (32, 32)


def test_a_value_that_is_the_default_or_empty_is_left_out() -> None:
    form = OptionsForm(("a red mug",))
    for value in ("500", " 500 ", "", "  "):
        form.set("--steps", "7")
        form.set("--steps", value)
        assert form.values == {}


def test_options_of_what_is_not_chosen_anymore_are_forgotten() -> None:
    form = OptionsForm(("a red mug",))
    form.set("--method", "vsd")
    form.set("--method.critic", "small-unet")
    form.set("--method.critic.width", "16")
    form.set("--method", "sds")
    assert form.values == {}  # sds is the default, and has no critic
    form.read()


@pytest.mark.parametrize("name", choices(Method))
def test_every_method_has_a_form_with_its_own_defaults(name: str) -> None:
    form = OptionsForm(("a red mug",))
    form.set("--method", name)
    fields = {field.flag: field for field in form.fields()}
    assert set(BASICS) < set(fields)
    assert all(field.help for field in fields.values()), [f.flag for f in fields.values()]
    for field in fields.values():  # to fill in a default changes nothing
        if field.flag != "--method":
            form.set(field.flag, field.default)
    assert form.values == ({} if name == "sds" else {"--method": name})


@pytest.mark.parametrize("name", choices(Preset))
def test_every_preset_fills_the_form(name: str) -> None:
    form = OptionsForm(("a red mug",))
    form.set("--preset", name)
    fields = {field.flag: field for field in form.fields()}
    first = next(iter(choices(Preset)[name]().stages(("a red mug",)).values()))
    assert fields["--steps"].default == str(first.steps)
    form.set("--seed", "3")
    if name not in ("zero123", "imagedream"):  # which start from an image
        assert form.read().experiment.seed == 3


@pytest.mark.parametrize(
    "line",
    [
        "'a red mug' 'a duck' --method vsd --method.critic-guidance 2 --particles 4",
        "'a red mug' --method.guidance 'linear 100 7.5' --no-films --representation.size 32 32",
        "'a red mug' --preset magic3d --seed 3 --timesteps.no-per-row",
        "--seed 1 -- '--steps 9' @file",
        "'a red mug' --films=false --steps 4 --out runs/x --image-every 2",
        "'a red mug' --representation.images a.png 'b c.png' --lr 0.02",
        "'a red mug' --films false",
        "'a red mug' --no_films --image_every 3 --timesteps.per_row false",
        "--representation latents --representation.size 64 64 'a red mug'",
        "--films 'a red mug' --source-prompt \"it's red\"",
    ],
)
def test_the_form_of_a_command_line_makes_it_again(line, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b c.png"):  # the form refuses files that are missing
        Path(name).touch()
    words = shlex.split(line)
    form = OptionsForm.of(words)
    assert not {"--out", "--image-every"} & set(form.values)
    made, asked = form.read(), read_run_command(words)
    assert made.experiment == asked.experiment
    assert made.options.films == asked.options.films
    assert made.stages.keys() == asked.stages.keys()


def test_another_method_starts_from_its_own_defaults() -> None:
    form = OptionsForm(("a red mug",))
    form.set("--method.guidance", "100")
    form.set("--method", "sds")  # the same one
    assert form.values == {"--method.guidance": "100"}
    form.set("--method", "vsd")
    assert form.values == {"--method": "vsd"}
    form.set("--method.guidance", "3")
    form.set("--method", "vsd")
    assert form.values == {"--method": "vsd", "--method.guidance": "3"}


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=3))
def test_any_prompt_survives_the_command_line(prompts: list[str]) -> None:
    form = OptionsForm(tuple(prompts))
    words = shlex.split(form.command)[2:]
    assert words == form.words
    assert read_run_command(words).experiment.prompts == tuple(prompts)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--particles", "many", "--particles must be an integer"),
        ("--method", "vds", "Did you mean vsd"),
        ("--weight", "nowhere.py:Mine", "nowhere.py"),
        ("--device", "gpu", "device must be auto, cpu, cuda, cuda:N or mps, not 'gpu'"),
    ],
)
def test_refusals_are_those_of_the_command_line(flag: str, value: str, message: str) -> None:
    form = OptionsForm(("a red mug",))
    with pytest.raises(ValueError, match=message):
        form.set(flag, value)
        form.read()
    with pytest.raises(ValueError, match="a prompt is missing"):
        OptionsForm().read()


def test_an_apostrophe_in_a_field_of_several_values_is_part_of_a_word():
    form = OptionsForm(("a red mug",))
    form.set("--source-prompt", "it's red")
    assert form.words == ["a red mug", "--source-prompt", "it's red"]
    assert shlex.split(form.command)[2:] == form.words
    form.set("--source-prompt", "")
    form.set("--representation.size", "8'")
    with pytest.raises(ValueError, match=r"representation\.size"):
        form.read()


def test_the_options_of_a_file_are_kept(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("prompts: [a red disc]\nmodel: gaussians\nsteps: 7\n", encoding="utf-8")
    form = OptionsForm.of(["--config", str(path), "--seed", "1"])
    assert form.words == ["a red disc", "--seed", "1", "--config", str(path)]
    form.set("--steps", "9")
    experiment = form.read().experiment
    assert (experiment.model.name, experiment.steps, experiment.seed) == ("gaussians", 9, 1)
