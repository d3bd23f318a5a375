"""The report of a run that goes on, and what is said at its start and end."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from run_folders import experiment

import limbeck.runs.recorder
from limbeck.diffusion.sampling import Sampling
from limbeck.priors.loading import load
from limbeck.runs.closing_summary import (
    closing_lines,
    edit_closing_lines,
    sample_closing_lines,
    verdict_lines,
)
from limbeck.runs.folder_state import is_finished
from limbeck.runs.recorder import record
from limbeck.runs.report.live import is_live, write_live_report
from limbeck.runs.stage import StagePosition
from limbeck.system import timing
from limbeck.training.trainer import Run

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_report_reloads_itself_until_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "run", []
    e = experiment(steps=4)
    advance = Run.advance

    def watched(run: Run):
        if run.step == 3:
            write_live_report(folder)
            page = (folder / "report.html").read_text(encoding="utf-8")
            seen.append(
                (is_live(folder / "report.html"), is_finished(folder, e), "of 4 steps" in page)
            )
        return advance(run)

    monkeypatch.setattr(Run, "advance", watched)
    report = record(e, load("gaussians", "cpu"), folder, console=Console(file=io.StringIO()))
    assert seen == [(True, False, True)]
    assert not is_live(report) and is_finished(folder, e)
    assert "reloads itself" not in report.read_text(encoding="utf-8")


def test_repeated_work_is_due_after_a_time_in_proportion_to_its_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    work = timing.RepeatedWork(0.05)
    assert work.is_due
    with work.measure():
        now += 2
    now += 39.9  # 2 s are a twentieth of 40 s
    assert not work.is_due
    now += 0.2
    assert work.is_due


def test_a_live_report_is_written_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, e = tmp_path / "run", experiment(steps=2)

    def killed(recorder: limbeck.runs.recorder.Recorder) -> Path:
        raise SystemExit("killed")  # no error, after which the page would say that the run stopped

    monkeypatch.setattr(limbeck.runs.recorder.Recorder, "run_loop", killed)
    with pytest.raises(SystemExit, match="killed"):
        record(e, load("gaussians", "cpu"), folder, console=Console(file=io.StringIO()))
    assert is_live(folder / "report.html") and not is_finished(folder, e)


def test_time_left_counts_the_later_stages() -> None:
    position = StagePosition(2, 3, "fine", later_steps=100)
    assert str(position) == "stage 2/3 (fine)" and str(StagePosition()) == ""
    assert position.seconds_left(20, 4.0) == 30.0


def test_the_folder_is_named_first(tmp_path: Path) -> None:
    out = io.StringIO()
    folder, stage = tmp_path / "run", StagePosition(2, 3, "fine", later_steps=5)
    console = Console(file=out, width=80)
    record(experiment(steps=2), load("gaussians", "cpu"), folder, console=console, stage=stage)
    lines = out.getvalue().splitlines()
    assert lines[0] == f"stage 2/3 (fine): {folder}: open {folder / 'report.html'} while it runs"


def test_verdicts_in_words_with_intervals() -> None:
    row = {"prompt": "a red mug", "object": 0.75, "color": 1.0, "rejected": 0.25, "saturation": 0.5}
    lines = verdict_lines({"prompts": [row, {"prompt": "abc", "saturation": 0.1}]}, 4, is_3d=False)
    assert lines == [
        '"a red mug", right images by the evaluator: object 3 of 4 (95 %: 30 to 95), '
        "color 4 of 4 (95 %: 51 to 100)",
        "rejected: in 1 of 4 images the evaluator sees none of its objects",
    ]
    (solid, _) = verdict_lines({"prompts": [row]}, 1, is_3d=True)
    assert solid == '"a red mug", right views by the evaluator: object 3 of 4, color 4 of 4'


def test_the_end_of_edits_names_verdicts_images_and_next_commands(tmp_path: Path) -> None:
    runs = {tmp_path / "64x64": experiment(steps=2), tmp_path / "96x64": experiment(steps=2)}
    for folder in runs:
        folder.mkdir()
    row = {"prompt": "a red mug", "object": 1.0}
    (tmp_path / "96x64" / "scores.json").write_text(json.dumps({"prompts": [row]}))
    argv = ["a b.png", "--seed", "7", "--out=x", "--steps", "2", "--out", "y"]
    lines = edit_closing_lines(tmp_path, runs, argv)
    total = sum(e.total for e in runs.values())
    assert lines[0] == f"finished: {total} edited images in {tmp_path}"
    assert lines[1].startswith(f"  images: {tmp_path / '64x64' / 'edit'}/*-after.png")
    assert lines[2].startswith('  "a red mug", right images by the evaluator: object')
    assert lines[3].startswith(f"  images: {tmp_path / '96x64' / 'edit'}/*-after.png")
    assert lines[4:6] == [
        "next:",
        "  limbeck edit 'a b.png' --steps 2 --seed 1  # another result",
    ]


def test_the_end_of_samples_names_verdicts_and_images(tmp_path: Path) -> None:
    row = {"prompt": "a red mug", "object": 0.75}
    (tmp_path / "scores.json").write_text(json.dumps({"prompts": [row]}))
    sampling = Sampling(("a red mug",), num_images=4)
    lines = sample_closing_lines(tmp_path, sampling)
    assert lines[:2] == [
        f"finished: 4 samples in {tmp_path}",
        '  "a red mug", right images by the evaluator: object 3 of 4 (95 %: 30 to 95)',
    ]
    assert lines[2:4] == [f"  images: {tmp_path / 'final'}", "next:"]
    views = sample_closing_lines(tmp_path, replace(sampling, views=2))
    assert views == [lines[0], *lines[2:]]  # two views of an object are no independent images


def test_the_end_names_the_next_commands(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    lines = closing_lines(folder, experiment(steps=2))
    commands = [line.strip() for line in lines[lines.index("next:") + 1 :]]
    assert commands[0].startswith(f"limbeck report '{folder}' ")
    assert commands[-1].startswith(f"limbeck run --config '{folder / 'run.yaml'}' --seed 1")


def test_the_end_names_a_critic_only_if_it_can_be_sampled(tmp_path: Path) -> None:
    (tmp_path / "critic" / "unet").mkdir(parents=True)
    e = experiment(steps=2, model="gaussians")
    assert f"--model gaussians --critic {tmp_path}" in "\n".join(closing_lines(tmp_path, e))
    world = "\n".join(closing_lines(tmp_path, experiment(steps=2, model="world")))
    assert f" --critic {tmp_path}" in world and "--model" not in world
    for name, is_named in (("own_prior.py:GaussianImages", True), ("plane_prior.py:Plane", False)):
        own = experiment(steps=2, model=str(EXAMPLES / name))
        text = "\n".join(closing_lines(tmp_path, own))
        assert (f"{name} --critic {tmp_path}" in text) == is_named  # samples of Plane are no images
    (tmp_path / "critic" / "particles.safetensors").touch()  # an exact critic
    assert "--critic" not in "\n".join(closing_lines(tmp_path, e))
