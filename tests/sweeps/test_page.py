"""The table in the terminal, the matrix of the page, and the files of the results."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from limbeck.config.yaml import to_yaml
from limbeck.runs.report.page_images import embed_image
from limbeck.runs.report.run_data import read_run_data
from limbeck.sweeps import score_plots
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.expansion import Sweep
from limbeck.sweeps.live_report import SweepReport
from limbeck.sweeps.live_table import LiveTable
from limbeck.sweeps.page import SweepPage, _title, matrix_axes
from limbeck.sweeps.planned_runs import PlannedRun, plan_runs
from limbeck.sweeps.progress import SweepProgress
from limbeck.sweeps.results import ResultReader, settings_of, write_table

PROMPTS = ("red disc", "<b>blue</b> ring")
FIXED = {"prompts": PROMPTS, "model": "gaussians", "steps": 10}
#: saturation of both prompts by guidance and seed
SATURATION = {(1, 0): (0.2, 0.4), (1, 1): (0.3, 0.5), (30, 0): (0.8, 1.0)}


@pytest.fixture
def progress(tmp_path: Path) -> SweepProgress:
    """Four runs: three with files of a finished run, the last killed before its first step."""
    sweep = Sweep(FIXED, grid={"method.guidance": (30, 1)}, seeds=(0, 1))
    runs = plan_runs(sweep)
    progress = SweepProgress(tmp_path, runs)
    for run in runs:
        key = (run.options["method.guidance"], run.options["seed"])
        if key not in SATURATION:
            progress.failed[run.name] = RunOutcome(run.name, "killed", "killed by SIGKILL")
            continue
        images = {stem: Image.new("RGB", (8, 8), "red") for stem in ("00-00", "00-01", "01-00")}
        write_finished(progress, run, images, SATURATION[key])
    return progress


def write_finished(
    progress: SweepProgress,
    run: PlannedRun,
    images: dict[str, Image.Image],
    scores: Sequence[float],
) -> None:
    """Write what the page reads of a finished run; scores are those of the prompts."""
    folder = progress.root / run.name
    (folder / "final").mkdir(parents=True)
    for stem, image in images.items():
        image.save(folder / "final" / f"{stem}.png")
    (folder / "run.yaml").write_text(to_yaml(run.stages[""]), encoding="utf-8")
    (folder / "report.html").write_text("a report", encoding="utf-8")
    prompts = zip(PROMPTS, scores, strict=True)
    rows = [{"prompt": prompt, "saturation": value} for prompt, value in prompts]
    mean = {"saturation": sum(scores) / len(rows), "object": None}
    content = json.dumps({"prompts": rows, "mean": mean})
    (folder / "scores.json").write_text(content, encoding="utf-8")
    profile = {"elapsed": 2.5, "evaluations": 20}
    (folder / "profile.json").write_text(json.dumps(profile), encoding="utf-8")
    progress.finished.add(run.name)


def results_of(progress: SweepProgress) -> list:
    return ResultReader(progress.runs, progress.root).read(progress.finished, progress.failed)


def test_the_table_has_a_row_per_run_and_prompt(progress: SweepProgress):
    path = write_table(results_of(progress), progress.root)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 + 1
    found = {
        (int(r["method.guidance"]), int(r["seed"]), r["prompt"]): float(r["saturation"])
        for r in rows
        if r["state"] == "finished"
    }
    assert found == {
        (*key, prompt): value
        for key, values in SATURATION.items()
        for prompt, value in zip(PROMPTS, values, strict=True)
    }
    assert [r["error"] for r in rows if r["state"] == "killed"] == ["killed by SIGKILL"]


def test_the_cost_of_a_run_is_that_of_all_its_stages(progress: SweepProgress):
    run = progress.runs[0]
    shutil.rmtree(progress.root / run.name)
    staged = replace(run, stages={"field": run.stages[""], "splats": run.stages[""]})
    for folder in staged.folders(progress.root):
        write_finished(progress, replace(run, name=f"{run.name}/{folder.name}"), {}, (0.1, 0.2))
    (result,) = ResultReader([staged], progress.root).read({run.name}, {})
    path = write_table([result], progress.root)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["evaluations"], row["seconds"]) for row in rows] == [("40", "5.0")] * 2


def test_the_parquet_file_is_the_same_table(progress: SweepProgress):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write_table(results_of(progress), progress.root)
    table = parquet.read_table(path.with_suffix(".parquet")).to_pylist()
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in table] == rows


def test_means_are_over_the_seeds_of_a_setting(progress: SweepProgress):
    settings = {s.options["method.guidance"]: s for s in settings_of(results_of(progress))}
    score = settings["1"].scores["saturation"]
    assert score.value == pytest.approx(0.35) and score.num_units == 2
    # means .3 and .4 of two seeds: sd .0707, over sqrt(2), times 12.7062; never negative
    assert score.interval == pytest.approx((0.0, 0.35 + 0.635310), abs=1e-5)
    assert settings["30"].scores["saturation"].interval is None


def test_the_page_shows_every_prompt_of_every_run_over_two_options(progress: SweepProgress):
    page = SweepPage(progress.root).write(results_of(progress))
    text = page.read_text(encoding="utf-8")
    assert text.count("<img") == 3 * 2 and text.count('report.html"') == 3
    assert "<b>blue" not in text and not re.search(r"(src|href)=.http", text)
    heads = re.findall(r"<tr><th>([^<]+)</th>\n<td>", text)
    assert heads == ["1", "30"]  # by size, though 30 was given first
    assert "killed by SIGKILL" in text and "3 finished" in text and "1 failed" in text
    assert "First final image of each run for each of the 2 prompts, in their order" in text
    turned = SweepPage(progress.root, rows="seed").write(results_of(progress))
    text = turned.read_text(encoding="utf-8")
    assert re.findall(r"<tr><th>([^<]+)</th>\n<td>", text) == ["0", "1"]


def test_a_sweep_of_one_option_plots_the_scores_of_its_settings(
    progress: SweepProgress, monkeypatch: pytest.MonkeyPatch
):
    drawn: list = []
    draw = score_plots.interval_plot

    def record(rows, **options):
        drawn.append((rows, options))
        return draw(rows, **options)

    monkeypatch.setattr(score_plots, "interval_plot", record)
    page = SweepPage(progress.root)
    text = page.write(results_of(progress)).read_text(encoding="utf-8")
    [(rows, options)] = drawn  # one score
    values = {label: (value, ends) for label, value, ends in rows}
    assert options == {"zero": False}
    assert values["1"][0] == pytest.approx(0.35) and values["30"] == (pytest.approx(0.9), None)
    assert values["1"][1] == pytest.approx((0.0, 0.35 + 0.635310), abs=1e-5)
    [figure] = re.findall(r"<figure><figcaption>(.*?)</figcaption>(<svg.*?</svg>)", text, re.S)
    assert figure[0] == "saturation" and all(f">{label}<" in figure[1] for label in values)
    page.write(results_of(progress), reload_seconds=10)
    assert len(drawn) == 1  # not while the sweep goes on


def test_the_title_names_the_prompts_of_all_runs(progress: SweepProgress):
    for axis, title in (
        ([["red disc"], ["blue ring"]], "“red disc”, “blue ring”"),
        ([["red disc", "blue ring"], ["green bar"], ["a"]], "“blue ring”, “green bar” and 1 more"),
    ):
        sweep = Sweep({"model": "gaussians"}, grid={"prompts": tuple(axis)})
        results = results_of(progress)
        started = [replace(results[0], run=run) for run in plan_runs(sweep)]
        assert _title(started, progress.root).endswith(title)


def test_axes_by_their_short_name():
    varied = ["method", "method.guidance", "seed"]
    assert matrix_axes(varied) == ("method", "method.guidance")
    assert matrix_axes(varied, columns="seed") == ("method", "seed")
    assert matrix_axes(varied, "--guidance", "method") == ("method.guidance", "method")
    assert matrix_axes([]) == ("", "")
    with pytest.raises(ValueError, match="no option with several values is called 'steps'"):
        matrix_axes(varied, "steps")


def test_a_score_that_could_not_be_computed_is_left_out(progress: SweepProgress):
    path = next(progress.root.glob("*guidance-1-seed-0-*")) / "scores.json"
    scores = json.loads(path.read_text(encoding="utf-8"))
    scores["prompts"][0]["saturation"] = scores["mean"]["saturation"] = None
    path.write_text(json.dumps(scores), encoding="utf-8")
    results = results_of(progress)
    settings = {s.options["method.guidance"]: s for s in settings_of(results)}
    assert settings["1"].scores["saturation"].num_units == 1
    assert SweepPage(progress.root).write(results).is_file()


def test_the_live_table_counts_runs_and_the_time_left(progress: SweepProgress):
    last = progress.runs[-1]
    progress.finished.discard(last.name)
    progress.running = {last.name}
    progress.steps_at_start = {last.name: 2}
    lines = "".join(json.dumps({"step": step}) + "\n" for step in range(1, 7))
    (progress.root / last.name / "metrics.jsonl").write_text(lines, encoding="utf-8")
    # steps 3 to 6 took 8 seconds, and 4 of 10 are left
    assert progress.seconds_left(8.0) == pytest.approx(8.0)
    console = Console(width=100, record=True, file=io.StringIO())
    table = LiveTable(console)
    console.print(table.render(progress))
    text = console.export_text()
    assert "2 of 4 done, 1 running, 1 failed" in text and "step 6 of 10" in text
    assert "killed by SIGKILL" in text


def test_without_a_terminal_the_start_is_said_once(progress: SweepProgress):
    console = Console(width=100, record=True, file=io.StringIO())
    table = LiveTable(console)
    table.update(progress, None)
    progress.running = {progress.runs[-1].name}
    for _ in range(3):
        table.update(progress, None)
    text = console.export_text()
    assert text.count("\n") == 1 and "1 running" in text and "a line follows" in text


def test_a_run_carries_its_place_in_each_filter(progress: SweepProgress):
    text = SweepPage(progress.root).write(results_of(progress)).read_text(encoding="utf-8")
    filters = re.findall(r'<select name="([^"]+)">(.*?)</select>', text, re.S)
    values = {key: re.findall(r"<option>([^<]+)<", body) for key, body in filters}
    assert values["method.guidance"] == ["1", "30"] and values["seed"] == ["0", "1"]
    assert values["state"] == ["finished", "killed"]
    figures = re.findall(r'<figure data-run="([^"]+)".*?</figure>', text, re.S)
    # rows are guidance 1 and 30, columns are seeds; the last run was killed
    assert figures == ["0 0 0", "0 1 0", "1 0 0", "1 1 1"]
    assert re.findall(r'<tr data-run="([^"]+)"', text) == ["1 - -", "0 - -", "1 1 1"]


def test_the_page_of_a_sweep_that_goes_on_reloads_itself(progress: SweepProgress):
    now = [100.0]
    report = SweepReport(progress, clock=lambda: now[0])
    waiting, running = progress.runs[3].name, progress.runs[2].name
    progress.finished.discard(waiting)
    progress.failed.clear()
    progress.running = {running}
    page = progress.root / "report.html"
    report.update()
    text = page.read_text(encoding="utf-8")
    assert "1 running" in text and 'data-reload-seconds="10"' in text and "refresh" in text
    assert 'class="empty">running' in text and 'class="empty">waiting' in text
    written = page.stat().st_mtime_ns
    now[0] += 9
    report.update()
    assert page.stat().st_mtime_ns == written
    now[0] += 2
    report.update()
    assert page.stat().st_mtime_ns > written
    progress.finished.add(waiting)
    report.write()
    text = page.read_text(encoding="utf-8")
    assert "refresh" not in text and 'data-reload-seconds="0"' in text and "3 finished" in text


def test_what_has_ended_is_read_once(progress: SweepProgress):
    """A page that is written again reads only runs in progress."""
    reader = ResultReader(progress.runs, progress.root)
    first = reader.read(progress.finished, progress.failed)
    again = reader.read(progress.finished, progress.failed)
    assert all(a is b for a, b in zip(first, again, strict=True))
    failed = progress.failed.popitem()[0]
    retried = reader.read(progress.finished, {}, {failed})
    assert [result.state for result in retried] == ["finished"] * 2 + ["running", "finished"]


@pytest.mark.slow
def test_500_runs_stay_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The page stays small, and writing it again reads only what has ended since."""
    sweep = Sweep(FIXED, grid={"method.guidance": tuple(range(1, 51))}, seeds=tuple(range(10)))
    runs = plan_runs(sweep)
    progress, rng = SweepProgress(tmp_path, runs), np.random.default_rng(0)
    for number, run in enumerate(runs[:-1]):
        noise = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        images = {f"{i:02d}-00": Image.fromarray(noise[i]) for i in range(2)}
        write_finished(progress, run, images, (number / 500, 0.5))
    progress.running = {runs[-1].name}
    read, shrunk, embedded = [], [], []

    def counted_read(folder):
        read.append(folder)
        return read_run_data(folder)

    def counted_embed(path, *options):
        shrunk.append(path)
        embedded.append(embed_image(path, *options))
        return embedded[-1]

    monkeypatch.setattr("limbeck.sweeps.results.read_run_data", counted_read)
    monkeypatch.setattr("limbeck.sweeps.page.embed_image", counted_embed)
    report = SweepReport(progress, clock=lambda: 0.0)
    report.update()
    assert len(read) == len(set(read)) == 499 and len(shrunk) == len(set(shrunk)) == 2 * 499
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<img") == 2 * 499 and "499 finished" in text
    image = Image.new("RGB", (16, 16), "red")
    write_finished(progress, runs[-1], {"00-00": image, "01-00": image}, (1.0, 0.5))
    progress.running = set()
    report.write()
    last = tmp_path / runs[-1].name
    assert read[499:] == [last] and {path.parents[1] for path in shrunk[998:]} == {last}
    assert len(shrunk) == 1000
    size = (tmp_path / "report.html").stat().st_size
    assert size < sum(len(image.src) for image in embedded) + 500 * 1_000


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
def test_the_filters_hide_runs_in_a_browser(progress: SweepProgress):
    page = SweepPage(progress.root).write(results_of(progress))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]

    def dump(choice: str) -> str:
        words = ["chromium", *options, "--dump-dom", f"{page.as_uri()}#{choice}"]
        return subprocess.run(words, capture_output=True, text=True, timeout=60).stdout

    text = dump("method.guidance=30&option=guidance&baseline-0=30")
    hidden = re.findall(r'<figure data-run="([^"]+)"[^>]* hidden=""', text)
    assert hidden == ["0 0 0", "0 1 0"] and "2 of 4 runs" in text
    tables = re.findall(r'<div class="wide" data-option="0" data-baseline="(\d)"( hidden)?', text)
    assert tables == [("0", " hidden"), ("1", "")]
    assert "of 4 runs" not in dump("method.guidance=7")  # a value of another sweep
