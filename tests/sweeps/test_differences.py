"""Differences between values of an option, paired by prompt, seed and the other options."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from limbeck.metrics.estimate import Estimate
from limbeck.runs.report.run_data import RunData
from limbeck.runs.report.tables import difference_cell
from limbeck.sweeps.differences import MAX_LEVELS, Comparison, compare_levels
from limbeck.sweeps.expansion import Axes, Sweep
from limbeck.sweeps.page import SweepPage
from limbeck.sweeps.planned_runs import plan_runs
from limbeck.sweeps.results import RunResult, settings_of

PROMPTS = ("red disc", "blue ring")
FIXED = {"prompts": PROMPTS, "model": "gaussians", "steps": 10}


def results_of(
    sweep: Sweep, score: Callable[[Mapping, str], dict[str, float] | None]
) -> list[RunResult]:
    """Finished runs with the given scores by options and prompt; None for a failed run."""
    results = []
    for run in plan_runs(sweep):
        prompts = next(iter(run.stages.values())).prompts
        rows = [score(run.options, prompt) for prompt in prompts]
        data = RunData(Path(run.name), False, "", {"prompts": list(prompts)})
        scores = [
            {"prompt": prompt, **row}
            for prompt, row in zip(prompts, rows, strict=True)
            if row is not None
        ]
        mean = {}
        for name in scores[0] if scores else ():
            if name != "prompt":
                mean[name] = sum(row[name] for row in scores) / len(scores)
        vars(data)["scores"] = {"prompts": scores, "mean": mean}
        state = "finished" if scores else "killed"
        results.append(RunResult(run, state, "", Path(run.name), data))
    return results


def one(comparisons: list[Comparison], option: str) -> Comparison:
    (found,) = [comparison for comparison in comparisons if comparison.option == option]
    return found


def test_a_difference_is_of_the_same_prompt_seed_and_other_options():
    """Offsets of prompt, seed and learning rate are large and cancel; the effect is .1 to .3."""
    sweep = Sweep(FIXED, grid={"method": ("sds", "sjc"), "lr": (0.1, 0.2)}, seeds=(0, 1, 2))
    effect = {0: 0.1, 1: 0.2, 2: 0.3}

    def score(o: Mapping, prompt: str) -> dict[str, float]:
        offset = 7 * o["seed"] + 3 * PROMPTS.index(prompt) + 11 * o["lr"]
        return {"saturation": offset + (o["method"] == "sjc") * effect[o["seed"]]}

    comparison = one(compare_levels(results_of(sweep, score)), "method")
    (row,) = comparison.rows["sds"]
    assert (row.level, row.baseline, row.pairs) == ("sjc", "sds", 3 * 2 * 2)
    found = row.scores["saturation"]
    assert found.value == pytest.approx(0.2) and found.num_units == 3
    half = 4.302653 * 0.1 / math.sqrt(3)  # t quantile of 2 degrees of freedom, sd .1, 3 seeds
    assert found.interval == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    (back,) = comparison.rows["sjc"]
    assert back.scores["saturation"].value == pytest.approx(-0.2)
    assert back.scores["saturation"].interval == pytest.approx((-0.2 - half, -0.2 + half))


def test_a_failed_run_takes_its_pair_out():
    sweep = Sweep(FIXED, grid={"method": ("sds", "sjc")}, seeds=(0, 1, 2))

    def score(o: Mapping, prompt: str) -> dict[str, float] | None:
        failed = o["method"] == "sjc" and o["seed"] == 1
        return None if failed else {"saturation": o["seed"] + 0.25 * (o["method"] == "sjc")}

    (row,) = one(compare_levels(results_of(sweep, score)), "method").rows["sds"]
    assert row.pairs == 2 * 2 and row.scores["saturation"].num_units == 2
    assert row.scores["saturation"].value == pytest.approx(0.25)


def test_with_more_prompts_than_seeds_the_interval_is_over_prompts():
    prompts = ("red disc", "blue ring", "green square")
    sweep = Sweep({**FIXED, "prompts": prompts}, grid={"method": ("sds", "sjc")}, seeds=(0, 1))

    def score(o: Mapping, prompt: str) -> dict[str, float]:
        return {"object": 0.2 + (o["method"] == "sjc") * 0.1 * prompts.index(prompt)}

    results = results_of(sweep, score)
    (row,) = one(compare_levels(results), "method").rows["sds"]
    found = row.scores["object"]
    assert found.num_units == 3 and found.value == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.interval == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)
    score_of_sjc = settings_of(results)[1].scores["object"]
    assert score_of_sjc.num_units == 3 and score_of_sjc.value == pytest.approx(0.3)


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2, 3)])
def test_prompts_of_runs_of_their_own_are_averaged_like_those_of_one_run(
    seeds: tuple[int, ...], tmp_path: Path
) -> None:
    """A run per prompt, as for a critic of its own: the same numbers, over the same units."""
    prompts = ("red disc", "blue ring", "green square")
    grid: Axes = {"method": ("sds", "sjc")}
    together = Sweep({**FIXED, "prompts": prompts}, grid=grid, seeds=seeds)
    fixed = {key: value for key, value in FIXED.items() if key != "prompts"}
    apart = Sweep(fixed, grid={"prompts": tuple([p] for p in prompts)} | grid, seeds=seeds)

    def score(o: Mapping, prompt: str) -> dict[str, float]:
        place = prompts.index(prompt) - 0.1 * o["seed"] * prompts.index(prompt)
        return {"saturation": 0.2 + (o["method"] == "sjc") * 0.1 * place}

    ours, theirs = results_of(apart, score), results_of(together, score)
    assert [s.options for s in settings_of(ours)] == [{"method": "sds"}, {"method": "sjc"}]
    for own, other in zip(settings_of(ours), settings_of(theirs), strict=True):
        found, expected = own.scores["saturation"], other.scores["saturation"]
        assert found.num_units == expected.num_units == max(len(seeds), 3)
        assert found.value == pytest.approx(expected.value)
        assert found.interval == pytest.approx(expected.interval, abs=1e-12)
    assert [c.option for c in compare_levels(ours)] == ["method"]
    (row,) = one(compare_levels(ours), "method").rows["sds"]
    (other_row,) = one(compare_levels(theirs), "method").rows["sds"]
    assert row.pairs == other_row.pairs == 3 * len(seeds)
    assert row.scores["saturation"].value == pytest.approx(other_row.scores["saturation"].value)
    page = SweepPage(tmp_path).write(ours).read_text(encoding="utf-8")
    scores = page.split("<h2>Scores</h2>")[1].split("</section>")[0]
    assert "<th>method</th>" in scores and "<th>prompts</th>" not in scores


def test_prompts_that_alone_vary_are_settings():
    fixed = {key: value for key, value in FIXED.items() if key != "prompts"}
    sweep = Sweep(fixed, grid={"prompts": (["red disc"], ["blue ring"])}, seeds=(0, 1))
    settings = settings_of(results_of(sweep, lambda o, prompt: {"saturation": 0.2}))
    assert [s.options for s in settings] == [{"prompts": "red disc"}, {"prompts": "blue ring"}]


def test_options_that_were_varied_together_are_compared_as_settings():
    sweep = Sweep(FIXED, zip={"method": ("sds", "sjc"), "lr": (0.1, 0.2)}, seeds=(0, 1))
    found = compare_levels(results_of(sweep, lambda o, prompt: {"saturation": o["lr"]}))
    assert [comparison.option for comparison in found] == [""]
    assert found[0].levels == ["method sds, lr 0.1", "method sjc, lr 0.2"]
    (row,) = found[0].rows["method sds, lr 0.1"]
    assert row.scores["saturation"].value == pytest.approx(0.1)


def test_many_values_and_missing_scores_have_no_comparison():
    many = Sweep(FIXED, grid={"lr": tuple(0.1 + 0.01 * i for i in range(MAX_LEVELS + 1))})
    assert compare_levels(results_of(many, lambda o, prompt: {"saturation": 0.0})) == []
    two = Sweep(FIXED, grid={"lr": (0.1, 0.2)})
    assert compare_levels(results_of(two, lambda o, prompt: None)) == []


def test_a_score_of_ones_own_has_no_bounds():
    two = Sweep(FIXED, grid={"lr": (0.1, 0.2)}, seeds=(0, 1, 2))
    found = compare_levels(results_of(two, lambda o, p: {"mine": o["lr"] * (100 + o["seed"])}))
    (row,) = one(found, "lr").rows["0.1"]
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert row.scores["mine"].value == pytest.approx(10.1)
    assert row.scores["mine"].interval == pytest.approx((10.1 - half, 10.1 + half), abs=1e-6)


def test_the_page_marks_what_excludes_zero(tmp_path: Path):
    sweep = Sweep(FIXED, grid={"method": ("sds", "sjc")}, seeds=(0, 1, 2))

    def score(o: Mapping, prompt: str) -> dict[str, float]:
        other = o["method"] == "sjc"
        return {
            "object": 0.5 + other * (0.2 + 0.01 * o["seed"]),
            "saturation": 0.3 + other * (0.1 * o["seed"] - 0.1),
        }

    page = SweepPage(tmp_path).write(results_of(sweep, score)).read_text(encoding="utf-8")
    section = page.split('<section id="differences">')[1].split("</section>")[0]
    tables = re.findall(r'data-baseline="(\d)"( hidden)?>(.*?)</table>', section, re.S)
    assert [(number, bool(hidden)) for number, hidden, _ in tables] == [("0", False), ("1", True)]
    first = " ".join(tables[0][2].split())
    assert (
        "<td><b>+21</b>" in first
        and "<td>0.000 " in first
        and "[\N{MINUS SIGN}0.248, +0.248]" in first
    )
    assert "<b>\N{MINUS SIGN}21</b>" in tables[1][2] and "interval over seeds" in " ".join(
        section.split()
    )


def test_differences_as_text():
    assert difference_cell(Estimate(0.125, None), "object") == ("+12", "", False)
    minus = "\N{MINUS SIGN}"
    assert difference_cell(Estimate(-0.0123, (-0.02, -0.004)), "saturation") == (
        f"{minus}0.012",
        f"[{minus}0.020, {minus}0.004]",
        True,
    )
    assert difference_cell(Estimate(-0.0001, (-0.1, 0.1)), "saturation").difference == "0.000"
