"""Help of the commands: a short screen for run, the options of what is chosen, 80 columns."""

from __future__ import annotations

import re

import pytest
from refusals import refused

from limbeck.cli.main import commands, main
from limbeck.config.discovery import choices
from limbeck.distillation.critics.base import CriticConfig
from limbeck.methods.base import Method
from limbeck.runs.run_command import SHORT_HELP


def help_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main([*argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def flags(text: str) -> list[str]:
    return re.findall(r"^  (--[\w.-]+)", text, re.MULTILINE)


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_help_of_limbeck_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "--help")
    assert all(f"  {name} " in text for name in commands())
    assert max(map(len, text.splitlines())) <= 80


def test_help_of_run_is_a_short_screen(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "run", "--help")
    assert flags(text) == [f"--{name}" for name in SHORT_HELP[1:]]
    assert text.startswith("usage: limbeck run [PROMPT ...] [OPTIONS]")
    footer = " ".join(text.split())
    assert "limbeck run --help all" in footer and "--method NAME --help" in footer
    assert all(name in text for name in choices(Method))


@pytest.mark.parametrize("words", [["--help", "all"], ["--help-all"], ["a", "--help", "all"]])
def test_help_all_lists_every_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "run", *words)
    expected = {"--timesteps", "--method.guidance", "--image-every", "--checkpoint-every"}
    expected |= {"--dry-run", "--runtime.memory-format", "--model.lora"}
    assert expected <= set(flags(text))
    assert "--method.critic" not in text
    assert "--[no-]stop-on-collapse" in text


def test_help_of_a_method_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "run", "--method", "vsd", "--help")
    assert {"--preset", "--method.critic", "--method.critic.rank"} <= set(flags(text))
    assert "--timesteps.t-min" not in flags(text), "only what belongs to the chosen component"
    names = ", ".join(choices(CriticConfig))
    assert names in " ".join(text.split()) and "--method vsd:" in text
    assert "--method.critic.lora" not in text
    own = help_of(capsys, "run", "--method=vsd", "--method.critic", "exact", "--help")
    assert "--method.critic.buffer" in own and "--method.critic.rank" not in own


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, name, "--help")
    assert text.startswith(f"usage: limbeck {name}")
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("width", [80, 100, 200])
def test_help_is_at_most_100_columns_wide(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = help_of(capsys, "run", "--method", "vsd", "--help", "all").splitlines()
    limit = min(width, 100)
    assert limit - 12 < max(map(len, lines)) <= limit
    names = [name for name in choices(Method) if "-" in name]
    assert all(any(name in line for line in lines) for name in names), "no name is broken"


def test_the_word_help_is_no_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of(capsys, "run", "help") == help_of(capsys, "run", "--help")


def test_lr_is_short_for_that_of_the_representation(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "run", "a", "--lr", "1", "--representation", "gaussian-splats")
    assert message.startswith("--lr: the representation gaussian-splats has --representation.means")


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ("", "leaderboard"),
        ("--edits", "edit-leaderboard"),
        ("--in-3d", "leaderboard-3d"),
        ("--model gaussians", "leaderboard-gaussians"),
    ],
)
def test_a_quick_leaderboard_has_a_folder_of_its_own(
    words: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that the full one can be computed after it without another --out."""
    for quick, expected in ((["--quick"], f"runs/{folder}-quick)"), ([], f"runs/{folder})")):
        text = " ".join(help_of(capsys, "bench", *words.split(), *quick, "--help").split())
        assert f"(default: {expected}" in text
