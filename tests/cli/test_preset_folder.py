"""The stages of a preset: a page above them, and they hold their common folder to the end."""

import json
import re
from pathlib import Path

import pytest
from refusals import refused

from limbeck.cli.main import main
from limbeck.runs.run_command import read_run_command
from limbeck.system.folder_lock import folder_lock, refuse_folder_in_use

STAGES = ("1-first", "2-second")
TWO_STAGES = """
from dataclasses import dataclass, replace
from limbeck.config.yaml import build
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset

@dataclass(frozen=True)
class TwoStages(Preset):
    last_steps: int = 2
    def world(self, prompts):
        options = {"prompts": prompts, "model": "gaussians", "steps": 2}
        splats = {"name": "gaussian-splats", "num_gaussians": 64}
        experiment = build(Experiment, options | {"representation": splats})
        return {"first": experiment, "second": replace(experiment, steps=self.last_steps)}
    def full(self, prompts):
        return self.world(prompts)
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("stages.py").write_text(TWO_STAGES, encoding="utf-8")
    return ["run", "red disc", "--preset", "stages.py:TwoStages", "--no-films", "--out", "out"]


def test_the_default_folder_has_every_option(command: list[str]):
    words = command[1:4]
    options = [
        [],
        ["--seed", "1"],
        ["--particles", "2"],
        ["--model", "world"],
        ["--negative-prompt", "blue"],
        ["--preset.last-steps", "3"],
        ["--preset.last-steps", "3", "--seed", "1"],
    ]
    folders = [read_run_command([*words, *own]).folder for own in options]
    assert len(set(folders)) == len(folders), folders
    assert read_run_command([*words, "--seed", "0"]).folder == folders[0]


def test_a_second_command_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]):
    with folder_lock(Path("out")):
        before = sorted(Path("out").rglob("*"))
        assert "out is in use by process" in refused(capsys, *command)
        assert sorted(Path("out").rglob("*")) == before


def test_the_folder_is_held_in_each_stage_and_between(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import limbeck.priors.loading
    import limbeck.runs.recorder

    held: list[str] = []

    def record(experiment, prior, folder, recording, command, **options):
        with pytest.raises(ValueError, match="is in use"):
            refuse_folder_in_use(Path("out"))
        held.append(folder.name)
        return folder / "report.html"

    load = limbeck.priors.loading.load

    def load_in_use(*arguments):
        if held:  # the model of the second stage
            with pytest.raises(ValueError, match="is in use"):
                refuse_folder_in_use(Path("out"))
        return load(*arguments)

    monkeypatch.setattr(limbeck.runs.recorder, "record", record)
    monkeypatch.setattr(limbeck.priors.loading, "load", load_in_use)
    monkeypatch.setattr("limbeck.runs.closing_summary.closing_lines", lambda *a: [])
    monkeypatch.setattr("limbeck.runs.best_stage.choose_stage", lambda *a: [])
    monkeypatch.setattr("limbeck.runs.report.pages.write_recipe_report", lambda *a: Path("page"))
    assert main(command) == 0, capsys.readouterr().err
    assert held == ["1-first", "2-second"]
    refuse_folder_in_use(Path("out"))


def test_a_page_above_the_stages_has_each_and_their_total(
    command: list[str], capsys: pytest.CaptureFixture[str]
):
    command.remove("--no-films")
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(Path("out/report.html"))
    page = Path("out/report.html").read_text(encoding="utf-8")
    runs = [json.loads(Path(f"out/{name}/profile.json").read_text()) for name in STAGES]
    for name in STAGES:
        assert f'<a href="{name}/report.html">{name}</a>' in page
        assert Path(f"out/{name}/report.html").is_file()
        assert f'src="{name}/turntable/00-00.' in page
    assert page.count("<td>2 of 2</td>") == 2
    evaluations = [run["evaluations"] for run in runs]
    assert evaluations[0] > 0 and f"<span>{sum(evaluations):,} network evaluations</span>" in page
    assert "best stage: 2-second, the last" in page
    assert "2 of 2 stages" in page, re.findall("<div class=.facts.>.*?<.div>", page, re.S)


def test_the_best_stage_is_exported(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def reopen_run(folder, device):
        raise ValueError(f"opened {folder.name}")

    assert main([*command, "--no-films"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("limbeck.runs.reopen.reopen_run", reopen_run)
    assert "opened 2-second" in refused(capsys, "export", "out")
    Path("out/best-stage.json").write_text('{"best": "1-first"}', encoding="utf-8")
    assert "opened 1-first" in refused(capsys, "export", "out")


def test_a_prompt_that_is_refused_leaves_no_folder(
    command: list[str], capsys: pytest.CaptureFixture[str]
):
    command[1] = "zebra"
    assert "zebra" in refused(capsys, *command)
    assert not Path("out").exists()
    assert main([*command, "--dry-run"]) == 2 and not Path("out").exists()


def test_the_report_of_a_preset_is_that_of_its_last_stage(
    command: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(command) == 0
    capsys.readouterr()
    assert main(["report", "out"]) == 0
    assert capsys.readouterr().out.strip() == str(Path("out/2-second/report.html"))
    assert "given twice" in refused(capsys, "report", "out", "out/2-second")
    Path("sweep").mkdir()
    Path("sweep/sweep.yaml").write_text("", encoding="utf-8")
    assert f"its page is {Path('sweep/report.html')}" in refused(capsys, "report", "sweep")
