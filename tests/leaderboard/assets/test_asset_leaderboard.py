"""The leaderboard of 3D recipes: rows and runs, statistics by hand, the command, resumption."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import ball_representation
import pytest
import torch
from ball_representation import Object

from limbeck.cli.main import main
from limbeck.config.discovery import choices
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.evaluation.judge import RunEvaluation
from limbeck.evaluation.prompt_metrics import PromptImages
from limbeck.leaderboard.assets import judgment as asset_judgment
from limbeck.leaderboard.assets.folder import BOARD_FILE
from limbeck.leaderboard.assets.judgment import SIDE_VIEWS, AssetJudge, JudgedStage
from limbeck.leaderboard.assets.page import draw_asset_sheet, sheet_names, write_sheets
from limbeck.leaderboard.assets.protocol import AssetLeaderboard, plan_asset_runs
from limbeck.leaderboard.assets.statistics import StageResults, make_rows
from limbeck.leaderboard.assets.table import (
    asset_power_sentence,
    asset_rows_to_csv,
    asset_rows_to_markdown,
    format_number,
)
from limbeck.metrics.heldout_views import held_out_cameras
from limbeck.metrics.image_statistics import diversity_between
from limbeck.priors.exact import colored_shapes
from limbeck.sweeps.engines import process_pool
from limbeck.sweeps.engines.base import Engine
from limbeck.sweeps.execution import RunOutcome
from limbeck.system.checkpoint import write_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset
from limbeck.world.pretrained import load_evaluator
from limbeck.world.scene import OBJECTS

OWN = f"{ball_representation.__file__}:Object"
GRAY = torch.full((1, 32, 3, 64, 64), 128, dtype=torch.uint8)


def judged(metrics, images=GRAY, **costs):
    known = {"evaluations": 8, "cpu_seconds": 2.0, "steps": 1, "folder": Path("run")} | costs
    return JudgedStage(metrics, {}, images, **known)


def stage(row, shares, label="", is_last=True):
    """Results whose only metric is the share of right objects, by object and seeds."""
    results = {
        (name, seed): judged({"object": share})
        for name, seeds in shares.items()
        for seed, share in seeds.items()
    }
    return StageResults(row, label, is_last, results, 6)


def only_images(images):
    return PromptImages(images)


A = {"cube": {0: 0.5, 1: 0.7}, "duck": {0: 0.9, 1: 0.9}, "car": {0: 0.7, 1: 0.8}}
B = {"cube": {0: 0.4, 1: 0.4}, "duck": {0: 0.8}, "car": {0: 0.9, 1: 0.5}}


def test_means_and_differences_are_over_objects_and_paired_by_object_and_seed():
    rows, changes = make_rows([stage("a", B), stage("b", A)], "a", only_images)
    own = rows[1].values["object"]
    # objects .6, .9, .75: mean .75, deviation .15, t(2) = 4.302653
    assert own.value == pytest.approx(0.75) and own.by_unit == pytest.approx((0.6, 0.9, 0.75))
    # on the logit scale: log odds log 3, half width of the mean / (.75 x .25)
    half = 4.302653 * 0.15 / 3**0.5 / (0.75 * 0.25)
    odds = 3 * math.exp(-half), 3 * math.exp(half)
    assert own.interval == pytest.approx([o / (1 + o) for o in odds], abs=1e-6)
    # pairs .1 .3 | .1 | -.2 .3: objects .2, .1, .05
    change = rows[1].differences["object"]
    assert change.value == pytest.approx(0.35 / 3)
    assert change.interval == pytest.approx((-0.073062, 0.306396), abs=1e-6)
    assert rows[0].differences == {} and changes == []
    assert rows[0].objects == {"cube": [0.4, 0.4], "duck": [0.8], "car": [0.9, 0.5]}
    # 1.4286 half widths are found in four of five tables: 1.4286 * 18.97 = 27.1 points
    assert "at least 27 points in object" in asset_power_sentence(rows, "a")


def test_more_seeds_of_the_same_objects_do_not_narrow_an_interval():
    twice = {name: {s: seeds[s % 2] for s in range(4)} for name, seeds in A.items()}
    (few,), (many,) = (make_rows([stage("a", x)], "a", only_images)[0] for x in (A, twice))
    assert few.values["object"].interval == pytest.approx(many.values["object"].interval)


def test_stages_are_rows_that_are_compared_with_the_one_before_and_the_first():
    shift = [
        {n: {s: v + d for s, v in own.items()} for n, own in B.items()} for d in (0, 0.1, 0.05)
    ]
    labels = ("1 field", "2 geometry", "3 texture")
    stages = [stage("p", x, name, name[0] == "3") for x, name in zip(shift, labels, strict=True)]
    rows, changes = make_rows([stage("d", B), *stages], "d", only_images)
    assert [row.stage.name for row in rows] == ["d", "p, stage 1 field", "p, stage 2 geometry", "p"]
    found = [(c.later[0], c.earlier[0], round(c.differences["object"].value, 6)) for c in changes]
    assert found == [("2", "1", 0.1), ("3", "2", -0.05), ("3", "1", 0.05)]
    text = asset_rows_to_markdown(rows, changes, "d")
    assert "-0 %" not in text and format_number("object", -0.001) == "0 %"
    assert "| p, 2 geometry | 1 field | 10 points [" in text
    assert "-0 points" not in text and "| p, 3 texture | 1 field |" in text
    lines = list(csv.DictReader(io.StringIO(asset_rows_to_csv(rows, changes))))
    values = {(line["row"], line["stage"], line["metric"]): line for line in lines}
    worse = values["p", "3 texture", "object_minus_stage_2 geometry"]
    assert float(worse["value"]) == pytest.approx(-0.05)
    assert values["p", "1 field", "object"]["objects"] == "3"
    assert values["p", "1 field", "object"]["runs"] == "5"


def test_rows_whose_names_differ_in_signs_only_have_a_sheet_each(tmp_path):
    stages = [stage(name, A) for name in ("lr +1", "lr -1", "弱", "強")]
    rows, _ = make_rows(stages, "lr +1", only_images)
    files = sheet_names(rows)
    assert list(files.values()) == ["lr-1.png", "lr-1-2.png", "prompt.png", "prompt-2.png"]
    write_sheets(rows, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(files.values())


def test_diversity_is_between_the_seeds_of_an_object():
    noise = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, GRAY.shape, generator=noise).byte() for _ in range(3)]
    results = {("duck", s): judged({"object": 1.0}, x) for s, x in enumerate(images)}
    results["cube", 0] = judged({"object": 1.0})
    (row,), _ = make_rows([StageResults("a", "", True, results, 4)], "a", only_images)
    pairs = ((0, 1), (0, 2), (1, 2))
    by_pair = [
        sum(diversity_between(images[i][:, c] / 255, images[j][:, c] / 255) for c in range(32)) / 32
        for i, j in pairs
    ]
    assert row.values["diversity"].value == pytest.approx(sum(by_pair) / 3)
    assert row.values["diversity"].by_unit == pytest.approx([sum(by_pair) / 3])


def test_rows_are_planned_by_seed_and_object_with_all_their_stages(tmp_path):
    file = tmp_path / "rows.yaml"
    rows = ["strong: {preset: dreamfusion, method.guidance: 60}"]
    rows += ["stages: {preset: prolificdreamer, preset.last_stage: texture}"]
    file.write_text("\n".join(rows), encoding="utf-8")
    board = AssetLeaderboard(("dreamfusion",), file, seeds=2, steps_scale=0.1)
    rows = board.row_options()
    runs = plan_asset_runs(board, rows)
    assert len(runs) == 3 * 14 * 2 == len({run.planned.key for run in runs})
    assert [run.row for run in runs[:4]] == [*rows, "dreamfusion"]
    assert [run.object for run in runs[::3]] == [*OBJECTS, *OBJECTS]
    assert [run.seed for run in runs] == [0] * 42 + [1] * 42
    first, strong, second = (run.planned.stages for run in runs[42:45])
    assert first[""].prompts == ("a red sphere",) and first[""].seed == 1
    assert [(name, e.steps) for name, e in second.items()] == [
        ("field", 60),
        ("geometry", 15),
        ("texture", 30),
    ]
    assert strong[""].method.guidance == 60
    assert replace(strong[""], method=first[""].method) == first[""]
    assert "stages-sphere-seed-1-" in runs[44].planned.name


def test_all_presets_are_compared_by_default_and_quick_is_small():
    board = AssetLeaderboard(quick=True)
    # those that make an object of the embedded model from a text alone
    others = {"one-step", "zero123", "imagedream"}
    assert next(iter(board.row_options())) == "dreamfusion"
    assert set(board.row_options()) == set(choices(Preset)) - others
    runs = plan_asset_runs(board, board.row_options())
    assert len(runs) == 7 * 2 and {run.object for run in runs} == {"cube", "duck"}
    assert max(e.steps for run in runs for e in run.planned.stages.values()) <= 150


def test_views_are_kept_bit_by_bit_and_the_sides_are_the_sides(tmp_path):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 32, 3, 64, 64), generator=rng).byte()
    sheet = asset_judgment._sheet_of_views(images)
    assert sheet.size == (512, 512) and sheet.getpixel((64, 64)) == tuple(images[0, 9, :, 0, 0])
    sheet.save(tmp_path / "views.png")
    assert torch.equal(asset_judgment._read_views(tmp_path / "views.png"), images)
    azimuth = held_out_cameras(3.6, 40.0).azimuth[list(SIDE_VIEWS)].rad2deg().round().tolist()
    assert azimuth == [0, 90, -180, -90]
    asset = StageResults("a", "", True, {("duck", 1): judged({"object": 1.0}, images)}, 1)
    right = draw_asset_sheet(asset).crop((70 + 66, 30, 70 + 66 + 64, 94))
    assert right.getpixel((5, 7)) == tuple(images[0, SIDE_VIEWS[1], :, 7, 5])


class StubEngine(Engine):
    """Writes at once what a run leaves; runs whose names have a word are killed or stopped."""

    started: list[str] = []
    kills = stops = "no run"

    def prepare(self, tasks):
        self.outcomes = []

    def has_room(self):
        return not self.outcomes

    def start(self, task):
        self.started.append(task.name)
        kind = "killed" if self.kills in task.name else "finished"
        kind = "stopped" if self.stops in task.name else kind
        for folder, text in task.stages:
            write_finished_run(Path(folder), text, kind)
        self.outcomes.append(RunOutcome(task.name, kind, "" if kind == "finished" else "a reason"))

    def ended(self):
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    def running(self):
        return set()

    def stop(self):
        pass


def write_finished_run(folder, text, kind="finished"):
    e = from_yaml(Experiment, text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    line = {"step": 1, "evaluations": 4, "seconds": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    if kind != "finished":
        return
    particles = e.representation.build(colored_shapes(size=64), e.total, e.seed)
    tensors = {f"representation.{name}": value for name, value in particles.state_dict().items()}
    write_checkpoint(folder / "checkpoint.safetensors", tensors, {"step": e.steps})
    (folder / "report.html").write_text("<html>", encoding="utf-8")
    profile = {"elapsed": 9.0, "cpu_seconds": 3.0, "evaluations": 40, "seconds": {}}
    (folder / "profile.json").write_text(json.dumps(profile), encoding="utf-8")


def fake_evaluation(run, prior, judges):
    """Right views in as many of 32 as the run has faces, none for a chair."""
    e = run.experiment
    share = 0.0 if "chair" in e.prompts[0] else e.representation.faces / 32
    row = {"prompt": e.prompts[0], "object": share, "all": share, "rejected": 1 - share}
    row |= {"color": 1.0, "true_color": share, "view_accuracy": share, "janus": 0.25}
    row |= {"reference": {"object": 1.0, "true_color": 1.0}}
    report = {"step": e.steps, "views": ["front"] * 32, "prompts": [row]}
    pixels = torch.full(GRAY.shape, 40 * e.seed + e.representation.faces, dtype=torch.uint8)
    return RunEvaluation("", e.seed, report, images={e.prompts[0]: PromptImages(pixels)})


@pytest.fixture
def stubs(monkeypatch, tmp_path):
    """Runs and their judgment at once; returns a command with two rows."""
    monkeypatch.setattr(process_pool, "ProcessPool", StubEngine)
    monkeypatch.setattr(asset_judgment, "evaluate_run", fake_evaluation)
    monkeypatch.setattr(asset_judgment, "load", lambda *a, **k: colored_shapes(size=64))
    monkeypatch.setattr(StubEngine, "started", [])
    rows = tmp_path / "rows.yaml"
    rows.write_text(
        f"eight: {{representation: {{name: '{OWN}', faces: 8}}, steps: 10}}\n"
        f"sixteen: {{representation: {{name: '{OWN}', faces: 16}}, steps: 10}}\n",
        encoding="utf-8",
    )
    words = ["bench", "--in-3d", "--rows", str(rows), "--objects", "duck", "chair"]
    return [*words, "--steps-scale", "0.1"]


def values_of(out):
    text = (out / "leaderboard.csv").read_text(encoding="utf-8")
    return {(line["row"], line["metric"]): line for line in csv.DictReader(io.StringIO(text))}


def test_the_command_compares_rows_and_the_same_one_completes_it(
    stubs, tmp_path, capsys, monkeypatch
):
    out, whole = tmp_path / "board", tmp_path / "whole"
    assert main([*stubs, "--out", str(whole)]) == 0
    monkeypatch.setattr(StubEngine, "kills", "sixteen-duck-seed-1")
    assert main([*stubs, "--out", str(out)]) == 1
    assert "7 of 8 runs finished, 1 failed" in capsys.readouterr().err
    page = (out / "leaderboard.html").read_text(encoding="utf-8")
    assert "1 run is still missing" in page and "a reason" in page
    assert "3 of 4" in (out / "leaderboard.md").read_text(encoding="utf-8")
    # the difference is that of the pairs that are there
    assert float(values_of(out)["sixteen", "object_minus_baseline"]["value"]) == 0.125

    monkeypatch.setattr(StubEngine, "kills", "no run")
    monkeypatch.setattr(StubEngine, "started", [])
    judgments = {path: path.stat().st_mtime_ns for path in out.rglob("eval.json")}
    assert len(judgments) == 7
    assert main([*stubs, "--out", str(out)]) == 0
    (again,) = StubEngine.started
    assert again.startswith("sixteen-duck-seed-1-")
    assert all(path.stat().st_mtime_ns == time for path, time in judgments.items())
    for name in ("leaderboard.csv", "runs.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    table, other = (f / "leaderboard.md" for f in (out, whole))
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("    limbeck bench --in-3d --rows ")
    assert lines[2].startswith("2 objects x 2 seeds, 32 held-out cameras")
    assert lines[1:] == other.read_text(encoding="utf-8").splitlines()[1:]

    values = values_of(out)
    # duck 8 and 16 of 32 views, chair none
    assert [float(values[row, "object"]["value"]) for row in ("eight", "sixteen")] == [0.125, 0.25]
    assert float(values["sixteen", "object_minus_baseline"]["value"]) == 0.125
    assert float(values["eight", "fidelity"]["value"]) == 0.125
    assert float(values["eight", "true_color"]["value"]) == 0.125
    assert float(values["eight", "diversity"]["value"]) == pytest.approx(40 / 255, abs=1e-4)
    assert float(values["true objects", "object"]["value"]) == 1
    assert values["eight", "object"]["rows_through_network"] == "40"
    assert values["eight", "object"]["cpu_seconds"] == "3"
    page = (out / "leaderboard.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="([^"#]+)"', page))
    assert len(links) == 8 + 2 and all((out / link).is_file() for link in links)
    assert "missing" not in page.partition("<style>")[0] and "Not finished" not in page


def test_a_page_says_it_if_all_runs_fail(stubs, tmp_path, monkeypatch):
    out = tmp_path / "board"
    monkeypatch.setattr(StubEngine, "kills", "seed")
    assert main([*stubs, "--out", str(out)]) == 1
    page = (out / "leaderboard.html").read_text(encoding="utf-8")
    assert "8 runs are still missing" in page and page.count("killed: a reason") == 8
    assert not (out / "leaderboard.md").exists()


def test_what_is_judged_when_it_is_interrupted_is_on_the_page(stubs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "board"

    def ended(self):
        if len(self.started) == 3:
            raise KeyboardInterrupt
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    monkeypatch.setattr(StubEngine, "ended", ended)
    assert main([*stubs, "--out", str(out)]) == 130
    assert "To resume: limbeck bench --in-3d --rows" in capsys.readouterr().err
    page = (out / "leaderboard.html").read_text(encoding="utf-8")
    assert "6 runs are still missing" in page and 'http-equiv="refresh"' not in page
    assert values_of(out)["sixteen", "object_minus_baseline"]["objects"] == "1"


def test_a_run_that_its_numbers_stop_shows_nothing_and_counts(stubs, tmp_path, monkeypatch):
    out = tmp_path / "board"
    monkeypatch.setattr(StubEngine, "stops", "eight-duck-seed-0")
    assert main([*stubs, "--out", str(out)]) == 0
    values = values_of(out)
    assert float(values["eight", "object"]["value"]) == pytest.approx(8 / 32 / 4, abs=1e-5)
    assert float(values["eight", "janus"]["value"]) == pytest.approx((0.125 + 0.25) / 2)
    assert values["eight", "object"]["stopped"] == "1"
    lines = list(csv.DictReader(io.StringIO((out / "runs.csv").read_text(encoding="utf-8"))))
    (stopped,) = (line for line in lines if line["state"] == "stopped")
    assert (stopped["object"], stopped["seed"], stopped["fidelity"]) == ("0", "0", "0")
    assert stopped["r_precision"] == stopped["r_precision_shape"] == "0"
    assert stopped["object_name"] == "duck"


def test_rows_join_those_of_the_folder(stubs, tmp_path, monkeypatch, capsys):
    out, more = tmp_path / "board", tmp_path / "more.yaml"
    assert main([*stubs, "--seeds", "1", "--out", str(out)]) == 0
    monkeypatch.setattr(StubEngine, "started", [])
    more.write_text(
        f"other: {{representation: {{name: '{OWN}', faces: 4}}, steps: 10}}\n", encoding="utf-8"
    )
    words = ["bench", "--in-3d", "--rows", str(more), "--objects", "duck", "chair", "--seeds", "1"]
    assert main([*words, "--steps-scale", "0.1", "--out", str(out)]) == 0
    assert len(StubEngine.started) == 2 and all("other-" in name for name in StubEngine.started)
    assert float(values_of(out)["other", "object_minus_baseline"]["value"]) == -0.0625
    capsys.readouterr()
    more.write_text(f"other: {{representation: {{name: '{OWN}', faces: 5}}}}\n", encoding="utf-8")
    before = (out / BOARD_FILE).read_bytes()
    assert main([*words, "--steps-scale", "0.1", "--out", str(out)]) == 2
    assert "holds a row 'other' with other options" in capsys.readouterr().err
    assert main([*words, "--out", str(out)]) == 2  # other steps
    assert (out / BOARD_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--presets", "dreamfusio"], "Did you mean dreamfusion"),
        (["--objects", "dog"], "no object is called 'dog'"),
        (["--seeds", "0"], "at least 1"),
        (["--baseline", "x"], "'x' is no row; the rows are dreamfusion, mvdream, sjc"),
        (["--rows", "none.yaml"], "none.yaml: no such file"),
        (["--rows", "list.yaml"], "list.yaml: rows map a name to options"),
        (["--rows", "flat.yaml"], "row 'a' maps options to values"),
        (["--rows", "seed.yaml"], "row 'a': seed is that of the leaderboard"),
        (["--rows", "typo.yaml"], "Did you mean steps"),
        (["--rows", "flat2d.yaml"], "row 'a': its result is 2D"),
        (["--rows", "small.yaml"], "12 x 12 pixels"),
        (["--edits"], "exclude each other"),
    ],
)
def test_bad_input_is_refused_in_a_line_before_anything_is_written(
    words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(asset_judgment, "load", lambda *a, **k: colored_shapes(size=12))
    rows = {"list": "[a]", "flat": "a: 3", "seed": "a: {seed: 1}", "typo": "a: {steeps: 1}"}
    rows |= {"flat2d": "a: {representation: pixels}", "small": "a: {preset: sjc}"}
    for name, text in rows.items():
        Path(f"{name}.yaml").write_text(text + "\n", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    assert main(["bench", "--in-3d", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert sorted(tmp_path.iterdir()) == before


def test_other_files_in_the_folder_are_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    assert main(["bench", "--in-3d", "--presets", "sjc", "--out", str(tmp_path)]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_true_object_is_judged_once_and_read_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(asset_judgment, "load", lambda *a, **k: colored_shapes(size=64))
    e = Experiment(("a yellow duck",), model="world", representation=Object(), steps=1)
    write_finished_run(tmp_path / "run", to_yaml(e))
    judge = AssetJudge(tmp_path / "views", "cpu", load_evaluator())
    first = judge.judge(tmp_path / "run", "duck")
    assert first.metrics["object"] > 0.9 and first.metrics["janus"] == 0
    assert first.reference["object"] > 0.9 and first.metrics.keys() == first.reference.keys()
    monkeypatch.setattr(asset_judgment, "evaluate_run", None)
    again = judge.judge(tmp_path / "run", "duck")
    assert again.metrics == first.metrics and torch.equal(again.images, first.images)
    (tmp_path / "run" / "eval.json").write_text("{", encoding="utf-8")
    with pytest.raises(TypeError):  # a damaged file is judged anew
        judge.judge(tmp_path / "run", "duck")


@pytest.mark.slow
def test_runs_in_processes_are_compared_with_their_costs(tmp_path):
    out = tmp_path / "board"
    words = ["--presets", "dreamfusion", "--objects", "duck", "--seeds", "1", "--device", "cpu"]
    words += ["--steps-scale", "0.005", "--workers", "1", "--out", str(out)]
    assert main(["bench", "--in-3d", *words]) == 0
    line = values_of(out)["dreamfusion", "object"]
    # three steps of four views, each with and without the prompt
    assert (line["steps"], line["rows_through_network"]) == ("3", "24")
    assert float(line["cpu_seconds"]) > 1
    (run,) = (out / "runs").glob("dreamfusion-duck-seed-0-*")
    assert (run / "eval.json").is_file() and (out / "views" / f"{run.name}-1.png").is_file()
