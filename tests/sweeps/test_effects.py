"""Main effects and interactions against values that are put in, and how often intervals hold."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck.config.yaml import to_yaml
from limbeck.sweeps.effects import Effect, Factorial, effects_of, factorial_of, write_effects
from limbeck.sweeps.expansion import Sweep
from limbeck.sweeps.page import SweepPage
from limbeck.sweeps.planned_runs import plan_runs
from limbeck.sweeps.results import ResultReader, RunResult

PROMPTS = ("red disc", "blue ring", "green bar")
GRID = {"method.guidance": (7.5, 1), "steps": (10, 20)}
T_2, T_1 = 4.302653, 12.706205  # 97.5 % quantiles of Student's t


def saturation(options: dict[str, Any], prompt: int, seed: int) -> float:
    """Guidance adds .3, .4 and .5 by prompt; steps add .1; both together further .04 by seed."""
    guided, long = options["method.guidance"] == 7.5, options["steps"] == 20
    both = 0.03 if seed == 0 else 0.05
    return 0.1 * prompt + (0.3 + 0.1 * prompt) * guided + 0.1 * long + both * (guided and long)


def sweep_results(
    root: Path,
    sweep: Sweep,
    value: Callable[[dict[str, Any], int, int], float] = saturation,
    unfinished: Sequence[int] = (),
) -> list[RunResult]:
    """The results of a sweep whose runs were given these scores."""
    runs = plan_runs(sweep)
    finished = {run.name for number, run in enumerate(runs) if number not in unfinished}
    for run in runs:
        experiment = run.stages[""]
        folder = root / run.name
        folder.mkdir(parents=True)
        (folder / "run.yaml").write_text(to_yaml(experiment), encoding="utf-8")
        rows = [
            {"prompt": prompt, "saturation": value(dict(run.options), i, experiment.seed)}
            for i, prompt in enumerate(experiment.prompts)
        ]
        text = json.dumps({"prompts": rows, "mean": {"saturation": 0.0}})
        (folder / "scores.json").write_text(text, encoding="utf-8")
        (folder / "profile.json").write_text("{}", encoding="utf-8")  # as of a finished run
    return ResultReader(runs, root).read(finished, {})


def sweep_of(prompts: Sequence[str] = PROMPTS, grid: Any = GRID) -> Sweep:
    return Sweep({"prompts": tuple(prompts), "model": "gaussians"}, grid=grid, seeds=(0, 1))


def effects(results: Sequence[RunResult]) -> list[Effect]:
    design = factorial_of(results)
    assert design is not None
    return effects_of(design)


def test_effects_are_those_that_were_put_in_with_an_interval_over_prompts(tmp_path: Path):
    guidance, steps, both = effects(sweep_results(tmp_path, sweep_of()))
    # .3, .4, .5 by prompt, and half of the .04 of both
    assert guidance.difference.value == pytest.approx(
        0.42
    ) and guidance.difference.num_units == len(PROMPTS)
    half = T_2 * 0.1 / 3**0.5
    assert guidance.difference.interval == pytest.approx((0.42 - half, 0.42 + half), abs=1e-6)
    assert guidance.change[1:] == ("1", "7.5") and guidance.unit == "prompts"
    # the same for all prompts
    assert steps.difference.value == pytest.approx(0.12) and steps.difference.interval is not None
    assert (
        steps.difference.interval == pytest.approx((0.12, 0.12)) and steps.difference.excludes_zero
    )
    assert both.difference.value == pytest.approx(0.04) and both.other is not None
    assert (both.change.option, both.other.option) == ("method.guidance", "steps")


def test_seeds_are_the_unit_of_a_single_prompt(tmp_path: Path):
    _, _, both = effects(sweep_results(tmp_path, sweep_of(PROMPTS[:1])))
    assert (both.unit, both.difference.num_units) == ("seeds", 2)
    half = T_1 * 0.01  # .03 and .05: sd .01414, over sqrt(2)
    assert both.difference.interval == pytest.approx((0.04 - half, 0.04 + half), abs=1e-6)
    assert not both.difference.excludes_zero


def test_several_levels_are_compared_with_the_smallest(tmp_path: Path):
    grid = {"steps": (30, 10, 20), "method.guidance": (1, 7.5)}
    results = sweep_results(
        tmp_path, sweep_of(grid=grid), lambda o, i, s: o["steps"] ** 2 * o["method.guidance"]
    )
    found = {
        (e.change[1:], e.other[1:] if e.other else None): e.difference.value
        for e in effects(results)
    }
    assert found == {
        (("10", "20"), None): pytest.approx(300 * 4.25),
        (("10", "30"), None): pytest.approx(800 * 4.25),
        (("1", "7.5"), None): pytest.approx(6.5 * 1400 / 3),
        (("10", "20"), ("1", "7.5")): pytest.approx(300 * 6.5),
        (("10", "30"), ("1", "7.5")): pytest.approx(800 * 6.5),
    }


def test_prompts_that_vary_are_units_and_no_option(tmp_path: Path):
    grid = {**GRID, "prompts": tuple((prompt,) for prompt in PROMPTS[:3])}
    sweep = Sweep({"model": "gaussians"}, grid=grid, seeds=(0, 1))
    found = effects(sweep_results(tmp_path, sweep))
    assert len(found) == 3 and {(e.unit, e.difference.num_units) for e in found} == {("prompts", 3)}


def test_with_more_seeds_than_prompts_seeds_are_units(tmp_path: Path):
    sweep = replace(sweep_of(PROMPTS[:2]), seeds=(0, 1, 2))
    found = effects(sweep_results(tmp_path, sweep))
    assert {(e.unit, e.difference.num_units) for e in found} == {("seeds", 3)}
    interaction = next(effect for effect in found if effect.other is not None)
    # .03, .05, .05 by seed, the same for all prompts; t quantile of 2 degrees of freedom
    half = 4.302653 * 0.0115470 / 3**0.5
    assert interaction.difference.interval == pytest.approx(
        (0.13 / 3 - half, 0.13 / 3 + half), abs=1e-6
    )


def test_options_whose_values_go_together_count_as_the_first_one(tmp_path: Path):
    zipped = {"method.guidance": (1, 7.5), "representation.lr": (0.1, 0.2)}
    fixed = {"prompts": PROMPTS, "model": "gaussians"}
    sweep = Sweep(fixed, grid={"steps": (10, 20)}, zip=zipped, seeds=(0, 1))
    found = effects(sweep_results(tmp_path, sweep))
    assert [e.change.option for e in found if e.other is None] == ["steps", "method.guidance"]
    assert found[1].difference.value == pytest.approx(0.42)


def test_a_seed_that_is_not_finished_everywhere_is_left_out(tmp_path: Path):
    results = sweep_results(tmp_path, sweep_of(), unfinished=[7])  # the last one has seed 1
    design = factorial_of(results)
    assert design is not None and design.left_out == len(PROMPTS)
    both = effects_of(design)[-1]
    assert both.difference.value == pytest.approx(0.03)


def rewrite_scores(results: Sequence[RunResult], change: Callable[[int, int, dict], None]) -> None:
    """Change the rows of scores.json: called with the numbers of run and row, and the row."""
    for number, result in enumerate(results):
        path = result.folder / "scores.json"
        scores = json.loads(path.read_text(encoding="utf-8"))
        for i, row in enumerate(scores["prompts"]):
            change(number, i, row)
        path.write_text(json.dumps(scores), encoding="utf-8")


def test_copies_of_a_prompt_count_each(tmp_path: Path):
    (first, *_) = effects(sweep_results(tmp_path, sweep_of(["red disc"] * 3)))
    assert first.difference.value == pytest.approx(0.4 + (0.03 + 0.05) / 4)
    assert first.unit == "prompts" and first.difference.num_units == 3


def test_scores_that_some_setting_lacks_are_named(tmp_path: Path):
    def change(run: int, prompt: int, row: dict) -> None:
        row["diversity"] = None if run % 4 == 0 else 0.5
        row["object"] = None if (run, prompt) == (0, 0) else 0.5

    results = sweep_results(tmp_path, sweep_of())
    rewrite_scores(results, change)
    design = factorial_of(results)
    assert design is not None and list(design.lacking) == ["object", "diversity"]
    assert set(design.scores) == {"saturation", "object"}
    keys = {place: set(own) for place, own in design.scores["object"].items()}
    assert all(("red disc", "0") not in own and len(own) == 5 for own in keys.values())
    page = " ".join(SweepPage(tmp_path).write(results).read_text(encoding="utf-8").split())
    assert "diversity is left out, as no prompt has it in every setting." in page
    assert "is without 1 pair of prompt and seed that lack it in some setting." in page
    assert "of 6 intervals, less than one would be so by chance" in page


@pytest.mark.parametrize(
    "sweep",
    [
        sweep_of(grid={"steps": (10, 20)}),
        Sweep({"prompts": PROMPTS, "model": "gaussians"}, zip=GRID, seeds=(0, 1)),
    ],
    ids=["one option", "zip"],
)
def test_no_effects_without_every_combination_of_two_options(tmp_path: Path, sweep: Sweep):
    results = sweep_results(tmp_path, sweep, lambda o, i, s: 0.5)
    assert factorial_of(results) is None
    (tmp_path / "effects.csv").write_text("of an earlier command", encoding="utf-8")
    assert write_effects(results, tmp_path) is None
    assert not (tmp_path / "effects.csv").exists()
    assert "Effects of" not in SweepPage(tmp_path).write(results).read_text(encoding="utf-8")


def test_no_effects_while_a_setting_is_not_finished(tmp_path: Path):
    assert factorial_of(sweep_results(tmp_path, sweep_of(), unfinished=[3, 7])) is None


def test_the_file_and_the_page_have_every_effect(tmp_path: Path):
    results = sweep_results(tmp_path, sweep_of())
    path = write_effects(results, tmp_path)
    assert path is not None
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["effect"], r["option"], r["other_option"]) for r in rows] == [
        ("main", "method.guidance", ""),
        ("main", "steps", ""),
        ("interaction", "method.guidance", "steps"),
    ]
    first = effects(results)[0]
    assert float(rows[0]["difference"]) == first.difference.value
    assert (float(rows[0]["low"]), float(rows[0]["high"])) == first.difference.interval
    page = SweepPage(tmp_path).write(results).read_text(encoding="utf-8")
    assert "<td>guidance: 1 → 7.5</td>\n<td><b>+0.420</b>" in page
    assert "<td>guidance \N{MULTIPLICATION SIGN} steps</td>" in page and "over 3 prompts" in page
    assert page.count("<svg") == 1


def test_a_page_of_very_many_effects_has_the_main_ones(tmp_path: Path):
    grid = {"steps": tuple(range(1, 8)), "particles": tuple(range(1, 7))}
    sweep = Sweep({"model": "gaussians", "prompts": PROMPTS[:2]}, grid=grid)
    results = sweep_results(tmp_path, sweep, lambda o, i, s: o["steps"] * i)
    page = SweepPage(tmp_path).write(results).read_text(encoding="utf-8")
    assert "The 30 interactions are in effects.csv only." in page
    assert "<td>steps: 1 → 7</td>" in page and "steps 7 \N{MULTIPLICATION SIGN}" not in page


def test_intervals_hold_the_true_effect_in_95_of_100_studies():
    rng = np.random.default_rng(0)
    count, prompts, seeds, levels = 400, 6, 2, ("low", "high")
    held = {"main": 0, "interaction": 0}
    for _ in range(count):
        # prompts differ in level, in the effect of a, and in that of a with b; seeds are noise
        offset = rng.normal(0, 0.3, prompts)
        a, ab = rng.normal(0.2, 0.1, prompts), rng.normal(0.0, 0.1, prompts)
        scores = {
            place: {
                (f"{p}", f"{s}"): offset[p]
                + a[p] * (place[0] == "high")
                + ab[p] * (place == levels[1:] * 2)
                + rng.normal(0, 0.1)
                for p in range(prompts)
                for s in range(seeds)
            }
            for place in itertools.product(levels, levels)
        }
        found = effects_of(Factorial({"a": levels, "b": levels}, {"saturation": scores}, 0))
        main, _, both = (effect.difference.interval for effect in found)
        assert main is not None and both is not None
        held["main"] += main[0] <= 0.2 <= main[1]
        held["interaction"] += both[0] <= 0.0 <= both[1]
    # three standard errors of a share of .95 in 400 studies: .033
    assert all(abs(number / count - 0.95) < 0.033 for number in held.values()), held
