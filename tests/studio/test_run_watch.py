"""A run folder is followed by its new lines and images only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from limbeck.studio.run_watch import MetricsTail, RunWatch, mean_curve
from limbeck.system.checkpoint import write_checkpoint


def line(step: int, **values: float | None) -> bytes:
    return json.dumps({"step": step, **values}).encode() + b"\n"


def test_only_complete_lines_are_read_and_each_of_them_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert not tail.read() and tail.rows == []
    path.write_bytes(line(1, loss=2.0) + line(2, loss=1.0)[:-8])
    assert tail.read() and [row["step"] for row in tail.rows] == [1]
    assert not tail.read()
    path.write_bytes(line(1, loss=2.0) + line(2, loss=1.0) + b"damaged\n" + line(3))
    assert tail.read() and [row["step"] for row in tail.rows] == [1, 2, 3]


def test_a_run_that_resumes_from_its_checkpoint_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(line(step) for step in range(1, 9)))
    tail = MetricsTail(path)
    assert tail.read() and len(tail.rows) == 8
    path.write_bytes(line(1) + line(2))
    assert tail.read() and [row["step"] for row in tail.rows] == [1, 2]


def test_values_of_single_rows_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    text = '{"step": %d, "loss": 2.0, "row_t": [0.5, 0.25], "row_gradient": [1.0, 2.0]}\n'
    path.write_text(text % 1 + text % 2)
    tail = MetricsTail(path)
    assert tail.read() and tail.rows == [{"step": step, "loss": 2.0} for step in (1, 2)]
    one, two = ([*row] for row in tail.rows)
    assert all(a is b for a, b in zip(one, two, strict=True))  # each name is in memory once


def test_a_curve_has_the_means_of_equal_bins() -> None:
    rows = [{"step": step, "loss": float(step)} for step in range(1, 11)]
    assert mean_curve(rows, "loss", 5) == ([2, 4, 6, 8, 10], [1.5, 3.5, 5.5, 7.5, 9.5])
    assert mean_curve(rows, "loss") == (list(range(1, 11)), [float(s) for s in range(1, 11)])
    gaps = [{"step": 1, "loss": None}, {"step": 2}, {"step": 3, "loss": 4.0}]
    assert mean_curve(gaps, "loss") == ([3], [4.0])
    assert mean_curve(gaps, "absent") == ([], [])


def test_an_export_is_of_the_checkpoint_of_the_best_stage(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path)
    with pytest.raises(ValueError, match="has no checkpoint yet: continue its run for a while"):
        watch.export_file()
    for name, step in (("1-field", 30), ("2-mesh", 40)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.yaml").write_text("prompts: [a]\n")
        write_checkpoint(tmp_path / name / "checkpoint.safetensors", {}, {"step": step})
        (tmp_path / name / "metrics.jsonl").write_bytes(line(step + 5))
    watch.refresh()
    assert watch.step == 45
    assert watch.export_file() == tmp_path / "export" / "2-mesh-step-00040.glb"
    (tmp_path / "best-stage.json").write_text('{"best": "1-field"}')
    file = watch.export_file()
    assert file == tmp_path / "export" / "1-field-step-00030.glb"
    assert RunWatch(tmp_path / "1-field").export_file().name == "step-00030.glb"

    assert not watch.is_exported(file)
    file.parent.mkdir()
    file.touch()
    assert watch.is_exported(file)
    seconds = (tmp_path / "1-field" / "checkpoint.safetensors").stat().st_mtime
    os.utime(file, (seconds - 1, seconds - 1))  # the run was repeated since then
    assert not watch.is_exported(file)


def test_stages_images_and_time_left(tmp_path: Path) -> None:
    first, second = tmp_path / "1-field", tmp_path / "2-mesh"
    for stage in (first, second):
        (stage / "images").mkdir(parents=True)
    watch = RunWatch(tmp_path)
    assert not watch.has_started
    (first / "run.yaml").write_text("prompts: [a]\n")
    (first / "metrics.jsonl").write_bytes(line(10, seconds=5.0, loss=1.0))
    assert watch.refresh() and watch.stage == first and watch.step == 10
    assert watch.seconds_left(30) == 10.0
    assert list(watch.curves()) == ["loss"]
    for name in ("step-00000", "step-00010", "step-00010-x0", "step-00010-gradient", "other"):
        (first / "images" / f"{name}.png").touch()
    found = {kind: list(steps) for kind, steps in watch.images().items()}
    assert list(found) == ["particles", "gradient", "x0"]
    assert found == {"particles": [0, 10], "gradient": [10], "x0": [10]}
    for name in ("step-100000", "step-99990"):  # in the order of the steps, not of the names
        (first / "images" / f"{name}.png").touch()
    assert list(watch.images()["particles"]) == [0, 10, 99_990, 100_000]
    (second / "run.yaml").write_text("prompts: [a]\n")
    assert not watch.refresh()
    assert watch.stage == second and watch.step == 0 and watch.images() == {}
