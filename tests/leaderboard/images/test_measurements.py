"""Gradient noise, peak memory and quality curves of the rows of a leaderboard."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
import torch

from limbeck.leaderboard.execution.text_to_image import SAMPLING, TunedSetting
from limbeck.leaderboard.execution.tuning import write_tuning
from limbeck.leaderboard.execution.workers import load_prior
from limbeck.leaderboard.images.cells import compute_cell, experiment_of
from limbeck.leaderboard.images.conduct import RowCells
from limbeck.leaderboard.images.gradient_noise import GradientNoise, snr_values, squared_snr
from limbeck.leaderboard.images.page import Missing, write_leaderboard_page
from limbeck.leaderboard.images.peak_memory import PeakMemory
from limbeck.leaderboard.images.protocol import Leaderboard
from limbeck.leaderboard.images.quality_curve import QualityCurve, curve_points
from limbeck.leaderboard.images.row_measurements import load_row, row_measurements
from limbeck.leaderboard.images.table import cell_text, to_markdown
from limbeck.leaderboard.images.time_left import TimeLeft, interleaved
from limbeck.leaderboard.report.judged_row import JudgedRow, to_csv
from limbeck.metrics.estimate import mean_estimate
from limbeck.system.memory_peak import can_measure_peak, peak_growth
from limbeck.training.trainer import Run
from limbeck.world.pretrained import shared_evaluator
from limbeck.world.scene import COLORS, OBJECTS, full_captions

SETTING = TunedSetting(0.1, 7.5)
PROMPTS = ("a red mug", "a blue cube")
COMMON = (SETTING, PROMPTS, 8, 0, "float32")
UNGUIDED = (TunedSetting(0.1, None), *COMMON[1:])
BOARD = Leaderboard(("sds", SAMPLING), num_prompts=3, tuning_prompts=0, passes=16)

_OWN = """
import torch
from dataclasses import dataclass
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class Known(StatelessMethod):
    def __call__(self, prior, inputs, state):
        return torch.full_like(inputs.eps, {mean}) + 2 * inputs.eps
"""


def own_method(folder, mean: str) -> str:
    """A method whose gradient has a known mean and a standard deviation of 2."""
    path = folder / "own.py"
    path.write_text(_OWN.format(mean=mean), encoding="utf-8")
    return f"{path}:Known"


@pytest.mark.parametrize("true_snr", [0.0, 0.4, 2.0])
def test_the_snr_of_gaussians_has_its_expectation(true_snr):
    """Mean and covariance of normal draws are independent, so that the expectation is known.

    Without the correction the mean would exceed it by 1 / draws, many standard errors.
    """
    draws, rows, dims = 8, 20_000, 5
    rng = torch.Generator().manual_seed(0)
    mean = torch.zeros(dims)
    mean[0] = true_snr * math.sqrt(dims)  # the trace of the unit covariance is dims
    found = squared_snr(torch.randn(draws, rows, dims, generator=rng) + mean)
    freedom = (draws - 1) * dims
    inverse = freedom / (freedom - 2)  # mean of the inverse of the estimated trace, in true ones
    expected = (true_snr**2 + 1 / draws) * inverse - 1 / draws
    error = found.std() / math.sqrt(rows)
    assert abs(found.mean() - expected) < 4 * error < 1 / draws / 2


def test_gradients_without_noise_have_an_infinite_ratio():
    """ISM's noise at a time is that of the deterministic inversion of the image."""
    same = torch.tensor([[0.1] * 3, [0.0] * 3]).expand(3, 2, 3)
    assert squared_snr(same).tolist() == [math.inf, 0.0]
    result = GradientNoise("ism", *COMMON, times=(0.5,), draws=2).measure()
    assert json.loads(json.dumps(result)) == {"squared_snr": {"0.5": ["inf", "inf"]}}
    value = snr_values(result)["snr_0.5"]
    assert (value.value, value.interval, cell_text(value)) == (math.inf, None, "∞")


def test_the_snr_of_a_known_gradient(tmp_path):
    """Mean .5 and standard deviation 2 in each of 1024 numbers: .25 at every time."""
    noise = GradientNoise(own_method(tmp_path, "0.5"), *UNGUIDED, times=(0.3, 0.9), draws=16)
    result = noise.measure()
    assert set(result["squared_snr"]) == {"0.3", "0.9"}
    values = snr_values(json.loads(json.dumps(result)))
    for value in values.values():
        assert value.value == pytest.approx(0.25, abs=0.02)
        assert value.interval is not None and value.interval[0] <= value.value


def test_values_that_are_not_finite_are_left_out(tmp_path):
    name = own_method(tmp_path, "float('nan')")
    result = GradientNoise(name, *UNGUIDED, times=(0.5,), draws=2).measure()
    assert result == {"squared_snr": {"0.5": [None, None]}} and not snr_values(result)
    points = curve_points(QualityCurve(name, *UNGUIDED, shares=(0.5, 1.0)).measure())
    assert [point.steps for point in points] == [4, 8]
    assert all(point.all.value == 0 for point in points)  # gray images


def test_drawing_gradients_leaves_the_run_as_it_was():
    """A critic is not trained by the draws, and the draws are independent of each other."""
    noise = GradientNoise("vsd", *COMMON, draws=3)
    prompt = PROMPTS[:1]
    run = Run(experiment_of(noise.cell(prompt), prompt), load_prior("float32"))
    run.advance()
    experiment = run.experiment
    before = {name: value.clone() for name, value in run.tensors().items()}
    gradients = noise._draw(run, 0.5)
    after = run.tensors()
    assert run.step == 1 and run.experiment is experiment and before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients, noise._draw(run, 0.5))


@pytest.mark.skipif(not can_measure_peak(), reason="needs /proc/self/clear_refs")
def test_the_peak_is_that_of_the_work():
    """64 MiB that are free again at the end, after more that was free before."""
    size = 64 * 2**20
    torch.ones(4 * size, dtype=torch.uint8)
    assert peak_growth(lambda: torch.ones(size, dtype=torch.uint8)) == pytest.approx(size, rel=0.05)
    assert peak_growth(lambda: None) < 2**20


@pytest.mark.slow
@pytest.mark.skipif(not can_measure_peak(), reason="needs /proc/self/clear_refs")
def test_a_critic_takes_memory():
    sds, vsd = (PeakMemory(name, *COMMON).measure()["mib"] for name in ("sds", "vsd"))
    assert 0 < sds < vsd / 2


@pytest.mark.parametrize("name", ["sds", "vsd"])
def test_a_curve_ends_with_the_images_of_a_cell(name):
    curve = QualityCurve(name, *COMMON)
    points = curve._distill()
    cell = compute_cell(curve.cell(PROMPTS), load_prior("float32"))
    assert [steps for steps, _, _ in points] == [1, 2, 4, 6, 8]
    assert points[-1][1] == cell.passes
    assert [passes for _, passes, _ in points] == [
        pytest.approx(cell.passes * steps / 8) for steps, _, _ in points
    ]
    assert torch.equal(points[-1][2], cell.images)
    assert not torch.equal(points[0][2], cell.images)


@pytest.mark.slow
def test_a_curve_counts_the_passes_of_the_setup():
    """LMC learns its projection from samples before the first step."""
    (point,) = QualityCurve("lmc", SETTING, PROMPTS[:1], 1, 0, "float32", shares=(1.0,))._distill()
    assert point[1] > 1000


def test_a_curve_of_sampling_has_samples_of_fewer_steps():
    setting = TunedSetting(0.0, 5.0)
    curve = QualityCurve(SAMPLING, setting, PROMPTS, 8, 0, "float32", shares=(0.25, 0.5))
    points = curve_points(json.loads(json.dumps(curve.measure())))
    assert [(point.steps, point.passes) for point in points] == [(2, 4.0), (4, 8.0)]
    for point in points:
        cell = replace(curve.cell(PROMPTS), steps=point.steps)
        images = compute_cell(cell, load_prior("float32")).images.float() / 255
        with torch.no_grad():
            logits = shared_evaluator("cpu")(images)
        probabilities = [
            logits[name][i].softmax(0)[words.index(word)].item()
            for i, prompt in enumerate((("red", "mug"), ("blue", "cube")))
            for name, words, word in zip(
                ("color", "object"), (COLORS, OBJECTS), prompt, strict=True
            )
        ]
        assert point.objective.value == pytest.approx(sum(probabilities) / 4, abs=1e-6)


def test_measured_prompts_are_none_of_the_comparison():
    for board in (BOARD, Leaderboard(), Leaderboard(quick=True)):
        prompts = board.measured_prompts()
        assert len(set(prompts)) == 16
        assert not {*prompts} & {*full_captions(board.scenes()[0])}


def test_what_is_measured_of_a_row():
    def kinds(board, name):
        return [m.kind for m in row_measurements(board, name, SETTING, 8, "")]

    full, quick = Leaderboard(), Leaderboard(quick=True)
    assert kinds(full, "sds") == ["memory", "gradient-noise", "curve"]
    assert kinds(full, SAMPLING) == ["memory", "curve"]
    assert kinds(quick, "sds") == [] and kinds(quick, SAMPLING) == []


def test_a_measurement_is_known_by_what_it_depends_on():
    first = GradientNoise("sds", *COMMON)
    changes = {"steps": 9, "seed": 1, "draws": 4, "code": "x", "setting": TunedSetting(0.1, 8.0)}
    others = [replace(first, **{name: value}) for name, value in changes.items()]
    assert len({own.path for own in (first, *others)}) == 1 + len(changes)
    assert first.path == GradientNoise("sds", *COMMON).path


def measured_row(folder) -> tuple[RowCells, JudgedRow]:
    """A row whose measurements are in a folder, and judged."""
    measurements = row_measurements(BOARD, "sds", SETTING, 8, "")
    results = {
        "memory": {"mib": 3.9},
        "gradient-noise": {
            "squared_snr": {"0.1": [0.25, 0.25], "0.5": ["inf", 0.1], "0.9": [-0.1, None]}
        },
        "curve": {
            "points": [
                {"steps": n, "passes": 2.0 * n, "all": [0, n / 8], "objective": [n / 8, n / 8]}
                for n in (4, 8)
            ]
        },
    }
    for own in measurements:
        own.save(results[own.kind], folder / own.path)
    found = load_row(measurements, folder)
    values = {name: mean_estimate([0.0, 1.0]) for name in ("all", "diverged")} | dict(found.values)
    judged = JudgedRow("sds", "passes", SETTING, values, {}, 8, 16.0, 0.5, found.curve)
    return RowCells("sds", "passes", SETTING, (), (), measurements), judged


def test_measurements_reach_the_tables(tmp_path):
    _, row = measured_row(tmp_path)
    lines = list(csv.DictReader(io.StringIO(to_csv([row]))))
    by_metric = {line["metric"]: line for line in lines}
    assert by_metric["memory_mib"]["value"] == "3.9"
    assert by_metric["snr_0.1"]["value"] == "0.5"
    assert (by_metric["snr_0.9"]["value"], by_metric["snr_0.9"]["low"]) == ("0", "")
    assert by_metric["snr_0.5"]["value"] == "inf"
    curve = [line for line in lines if line["metric"] == "curve_objective"]
    assert [(line["passes"], line["steps"], line["value"]) for line in curve] == [
        ("8.0", "4", "0.5"),
        ("16.0", "8", "1"),
    ]
    text = to_markdown(BOARD, [row])
    assert "| snr_0.1 | snr_0.5 | snr_0.9 | memory_mib |" in text
    assert "| 8: .50 [.17, .83] |" in text


def test_measurements_reach_the_page(tmp_path, monkeypatch):
    from limbeck.leaderboard.images import page

    cells, judged = measured_row(tmp_path)
    monkeypatch.setattr(page, "_gallery", lambda *arguments: [])
    cells = replace(cells, cells=(cells.measurements[0].cell(PROMPTS),))
    path = write_leaderboard_page(BOARD, [cells], [judged], tmp_path, Missing(0, 1))
    text = path.read_text(encoding="utf-8")
    assert "Quality against network passes" in text and text.count("<svg") == 1
    assert text.count("<td>sds</td>") == 3  # of tables that it has values for: 600 passes
    assert "t = 0.1" in text and ">3.90<" in text and "1 row is not measured" in text


def test_a_row_without_measurements_is_judged(tmp_path):
    measurements = row_measurements(BOARD, "sds", SETTING, 8, "")
    row = RowCells("sds", "passes", SETTING, (), (), measurements)
    assert row.is_judgeable(tmp_path) and not row.is_complete(tmp_path)
    assert not load_row(measurements, tmp_path).values
    measured_row(tmp_path)
    assert row.is_complete(tmp_path)


def test_the_time_left_weighs_rows():
    """VSD's steps take ten times as long; a row that nobody knows counts as their mean."""
    clock = TimeLeft(workers=2)
    small = QualityCurve("sds", *COMMON)  # 2 prompts of 8 steps: 16
    vsd, ism = replace(small, name="vsd"), replace(small, name="ism")
    assert clock.minutes([small, vsd, ism]) is None
    clock.add(small, 16.0)
    clock.add(PeakMemory("ism", *COMMON), 0.01, wall=8.0)  # waits for a process of its own
    assert clock.minutes([vsd, ism]) is None  # one of three rows
    clock.add(vsd, 160.0)
    assert clock.minutes([vsd] * 4) == pytest.approx(4 * 160 / 2 / 60)
    assert clock.minutes([small, ism]) == pytest.approx((16 + 16 * 5.5) / 2 / 60)
    assert clock.minutes([vsd]) == pytest.approx(160 / 60)  # one process has nothing to do
    clock.add(vsd, 160.0, wall=320.0)  # the processor is shared with other programs
    assert clock.minutes([vsd]) == pytest.approx(320 / 60)
    assert clock.minutes([]) == 0


def test_the_first_task_of_each_row_comes_first():
    tasks = [replace(QualityCurve(name, *COMMON), seed=i) for name in "ab" for i in range(3)]
    assert [(t.name, t.seed) for t in interleaved(tasks)] == [
        (name, i) for i in range(3) for name in "ab"
    ]


def test_tuning_keeps_rows_of_other_commands(tmp_path):
    write_tuning({"sds": [1], "csd": [2]}, tmp_path)
    write_tuning({"csd": [3]}, tmp_path)
    text = (tmp_path / "tuning.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"sds": [1], "csd": [3]}
