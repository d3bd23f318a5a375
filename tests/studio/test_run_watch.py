"""A run folder is followed by its new lines and images only."""

from __future__ import annotations

import json
from pathlib import Path

from limbeck.studio.run_watch import MetricsTail, RunWatch, mean_curve


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
