"""Which runs a sweep has: grid, zip, random draws, seeds, and files."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from limbeck.cli.sweep_command_line import read_command
from limbeck.sweeps.expansion import Draw, Range, Sweep, expand_values, nest
from limbeck.sweeps.planned_runs import plan_runs
from limbeck.sweeps.sweep_file import read_sweep, sweep_to_yaml

TOY = ["red disc", "--model", "gaussians", "--steps", "3"]
FILE = """
prompts: [red disc]
model: gaussians
steps: 3
method: {guidance: 7.5}
grid:
  method: [sds, {name: vsd, critic: exact}]
zip:
  representation.lr: [0.1, 0.2]
  optimizer.decay-start: [0.5, 1]
seeds: 1:3
"""


def options_of(words: list[str]) -> list[dict]:
    sweep = read_command([*TOY, *words]).sweep
    return [dict(run.options) for run in plan_runs(sweep, "--")]


def test_a_grid_is_every_combination_with_the_first_seed_first():
    found = options_of(["--method", "sds", "sjc", "--method.guidance", "1", "7.5", "--seed", "0:2"])
    expected = [
        {"method": m, "method.guidance": g, "seed": s}
        for s in (0, 1)
        for m in ("sds", "sjc")
        for g in (1, 7.5)
    ]
    assert found == expected


def test_zip_goes_through_the_values_together_and_seeds_stay_crossed():
    found = options_of(["--zip", "--lr", ".1", ".2", "--particles", "1", "2", "--seed", "5", "7"])
    pairs = [(o["lr"], o["particles"], o["seed"]) for o in found]
    assert pairs == [(0.1, 1, 5), (0.2, 2, 5), (0.1, 1, 7), (0.2, 2, 7)]


def test_random_draws_follow_their_law_and_more_of_them_keep_the_first():
    sweep = Sweep({}, random={"lr": (Range("log", 0.01, 1.0),), "steps": (3, 4)}, draws=2000)
    points = sweep.points()
    logs = [math.log10(point["lr"].number) for point in points]
    assert all(0.01 <= point["lr"].number <= 1 for point in points)
    # the mean of 2,000 uniform numbers in [-2, 0] has a standard error of .0129
    assert abs(sum(logs) / len(logs) + 1) < 4 * 0.0129
    share = sum(point["steps"] == 3 for point in points) / len(points)
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(2000)
    fewer = options_of(["--lr", "log:0.01:1", "--random", "3"])
    more = options_of(["--lr", "log:0.01:1", "--random", "5", "--random-seed", "0"])
    other = options_of(["--lr", "log:0.01:1", "--random", "3", "--random-seed", "1"])
    assert more[:3] == fewer and other != fewer and len(more) == 5


def test_a_range_draws_integers_where_the_option_takes_no_fractions(tmp_path: Path):
    words = ["--particles", "uniform:1:4", "--method.guidance", "uniform:1:9", "--random", "40"]
    found = options_of([*words, "--timesteps.t-min", "log:0.01:0.1"])
    assert {o["particles"] for o in found} == {1, 2, 3, 4}
    assert all(type(o["particles"]) is int for o in found)
    guidance = [o["method.guidance"] for o in found]
    assert all(1 <= g <= 9 for g in guidance) and sum(g == int(g) for g in guidance) < 10
    # of a component that is chosen per run, where the default has no such option
    path = tmp_path / "study.yaml"
    path.write_text(
        "prompts: [red disc]\nmodel: gaussians\nrandom: {draws: 9, method: [sdi], "
        "method.refresh_every: 'log:1:20', method.inversion_steps: 'uniform:2:9'}\n",
        encoding="utf-8",
    )
    runs = plan_runs(read_sweep(path))
    assert len({run.options["method.refresh_every"] for run in runs}) > 4
    assert all(type(run.options["method.refresh_every"]) is int for run in runs)
    assert all(2 <= run.options["method.inversion_steps"] <= 9 for run in runs)


def test_integers_are_drawn_equally_often_and_log_ones_as_their_law_says():
    count = 4000
    places = [(i + 0.5) / count for i in range(count)]
    even = Counter(Draw(Range("uniform", 1, 4), place).integer for place in places)
    assert even == dict.fromkeys((1, 2, 3, 4), count // 4)
    rare = Counter(Draw(Range("log", 1, 100), place).integer for place in places)
    assert (min(rare), max(rare)) == (1, 100)
    # 1 is the part from .5 to 1.5 of the logarithm from .5 to 100.5
    assert rare[1] / count == pytest.approx(math.log(3) / math.log(201), abs=2 / count)


def test_ranges_of_integers():
    assert expand_values(["0:4", "7"]) == (0, 1, 2, 3, "7")
    assert expand_values(["1:10:4"]) == (1, 5, 9)
    assert expand_values(["uniform:1:2"]) == (Range("uniform", 1.0, 2.0),)


def test_values_of_two_words_and_switches():
    found = options_of(["--representation.size", "16", "16", "32", "16"])
    assert [o["representation.size"] for o in found] == [["16", "16"], ["32", "16"]]
    sweep = read_command([*TOY, "--timesteps.no-per-row", "--method.guidance", "1", "2"]).sweep
    stages = [run.stages[""] for run in plan_runs(sweep, "--")]
    assert [stage.timesteps.per_row for stage in stages] == [False, False]
    assert [o["timesteps.per_row"] for o in options_of(["--timesteps.per-row", "true", "false"])]


def test_options_of_one_method_may_vary_beside_another_that_has_them():
    words = ["--method", "vsd", "esd", "--method.critic", "lora", "--method.critic.rank", "2", "4"]
    sweep = read_command([*TOY, *words]).sweep
    ranks = [run.stages[""].method.critic.rank for run in plan_runs(sweep, "--")]
    assert ranks == [2, 4, 2, 4]


def test_a_file_and_the_command_line_over_it(tmp_path: Path):
    path = tmp_path / "study.yaml"
    path.write_text(FILE, encoding="utf-8")
    command = read_command([str(path), "--method.guidance", "3"])
    sweep, file = command.sweep, command.file
    assert file == path
    stages = [run.stages[""] for run in plan_runs(sweep)]
    assert [s.seed for s in stages] == [1, 1, 1, 1, 2, 2, 2, 2]  # 1:3 is no number of base 60
    assert [s.representation.lr for s in stages[:4]] == [0.1, 0.2, 0.1, 0.2]
    assert [s.optimizer.decay_start for s in stages[:4]] == [0.5, 1, 0.5, 1]
    assert {type(s.method).__name__ for s in stages[:2]} == {"SDS"}
    assert {type(s.method).__name__ for s in stages[2:4]} == {"VSD"}
    assert {s.method.guidance for s in stages} == {3}


def test_a_learning_rate_of_the_command_line_replaces_its_other_name(tmp_path: Path):
    path = tmp_path / "study.yaml"
    for given, option in (("lr: 0.1", "representation.lr"), ("representation.lr: 0.1", "lr")):
        path.write_text(f"prompts: [red disc]\nmodel: gaussians\n{given}\n", encoding="utf-8")
        sweep = read_command([str(path), f"--{option}", "0.2", "0.3"]).sweep
        runs = plan_runs(sweep)
        assert [run.stages[""].representation.lr for run in runs] == [0.2, 0.3]
        assert [run.options[option] for run in runs] == [0.2, 0.3]


def test_the_draws_of_a_file_keep_their_seed_unless_another_is_given(tmp_path: Path):
    path = tmp_path / "study.yaml"
    draws = "random: {draws: 2, draw_seed: 5, lr: 'log:0.01:1'}"
    path.write_text(f"prompts: [red disc]\nmodel: gaussians\n{draws}\n", encoding="utf-8")

    def rates(*words: str) -> list[float]:
        sweep = read_command([str(path), *words]).sweep
        return [run.options["lr"] for run in plan_runs(sweep)]

    assert rates("--random", "3")[:2] == rates() == rates("--random-seed", "5")
    other = rates("--random-seed", "6")
    assert len(other) == 2 and not set(other) & set(rates())
    assert rates("--random", "3", "--random-seed", "6")[:2] == other
    assert rates("--random-seed", "0") != rates()


def test_another_component_drops_the_options_of_the_one_of_the_file(tmp_path: Path):
    path = tmp_path / "study.yaml"
    method = "method: {name: vsd, critic: exact, guidance: 3}"
    path.write_text(f"prompts: [red disc]\nmodel: gaussians\n{method}\n", encoding="utf-8")
    for words, fixed in (
        (["sds"], {"method": "sds"}),
        (["sds", "--method.guidance", "2"], {"method": "sds", "method.guidance": 2}),
        (["vsd"], {"method": "vsd", "method.critic": "exact", "method.guidance": 3}),
    ):
        sweep = read_command([str(path), "--method", *words]).sweep
        assert {k: v for k, v in sweep.fixed.items() if k.startswith("method")} == fixed
        assert len(plan_runs(sweep)) == 1
    sweep = read_command([str(path), "--method", "sds", "sjc"]).sweep
    assert len(plan_runs(sweep)) == 2 and "method.critic" not in sweep.fixed


def test_seeds_of_the_command_line_replace_those_of_a_grid(tmp_path: Path):
    path = tmp_path / "study.yaml"
    path.write_text("prompts: [red disc]\nmodel: gaussians\ngrid: {seed: [0, 1]}\n", "utf-8")
    for words, seeds in ((["5:8"], [5, 6, 7]), (["5"], [5])):
        sweep = read_command([str(path), "--seed", *words]).sweep
        assert [run.stages[""].seed for run in plan_runs(sweep)] == seeds


def test_texts_of_a_file_are_no_ranges(tmp_path: Path):
    path = tmp_path / "study.yaml"
    grid = "prompts: ['16:9', 'uniform:1:2', a mug], negative_prompt: ['1:3', '0.1:0.2']"
    numbers = "method.guidance: ['2:4'], method: [sds, vsd], particles: ['1:3']"
    path.write_text(f"grid: {{{grid}, {numbers}}}\n", "utf-8")
    found = read_sweep(path).grid
    assert found["prompts"] == ("16:9", "uniform:1:2", "a mug")
    assert found["negative_prompt"] == ("1:3", "0.1:0.2")
    assert found["method.guidance"] == (2, 3) and found["particles"] == (1, 2)


def test_the_written_file_is_the_same_sweep(tmp_path: Path):
    sweep = read_command(
        [*TOY, "--lr", "log:0.01:1", "--random", "3", "--seed", "0:2", "--method", "sds", "sjc"]
    ).sweep
    path = tmp_path / "sweep.yaml"
    path.write_text(sweep_to_yaml(sweep), encoding="utf-8")
    again = read_sweep(path)
    assert plan_runs(again) == plan_runs(sweep) and len(plan_runs(again)) == 6


def test_runs_with_the_same_hash_by_chance_are_refused(monkeypatch):
    monkeypatch.setattr("limbeck.sweeps.planned_runs.fingerprint", lambda stage: "01234567")
    sweep = Sweep({"prompts": ["a"], "model": "gaussians"}, grid={"steps": (1, 2)})
    with pytest.raises(ValueError, match="differ and have the same hash"):
        plan_runs(sweep)
    plan_runs(Sweep({"prompts": ["a"], "model": "gaussians"}, grid={"steps": (1, 1)}))


def test_identical_experiments_are_planned_once():
    sweep = read_command([*TOY, "--method.guidance", "7.5", "7.50", "1", "--seed", "0", "0"]).sweep
    assert sweep.count == 6 and len(plan_runs(sweep, "--")) == 2


def test_the_name_of_a_run_says_its_options():
    sweep = read_command([*TOY, "--method", "sds", "sjc", "--method.guidance", "1", "7.5"]).sweep
    names = [run.name.rpartition("-")[0] for run in plan_runs(sweep, "--")]
    assert names == ["sds-guidance-1", "sds-guidance-7.5", "sjc-guidance-1", "sjc-guidance-7.5"]


def test_long_options_are_cut_in_the_name_of_a_run_and_its_seed_is_not():
    text = "a very long prompt of a duck that sits on grass in the evening sun beside a pond"
    words = ["a duck", "--method.guidance", "2", "3", "--negative-prompt", text, f"{text} again"]
    sweep = read_command([*words, "--seed", "3", "4", "--optimizer.eps", "1e-8", "1e-15"]).sweep
    names = [run.name for run in plan_runs(sweep, "--")]
    assert len(set(names)) == len(names) == 16
    for name in names:
        assert re.search("guidance-[23]-", name) and re.search("seed-[34]-", name), name
        assert len(name) <= 80 + len("-01234567")


def test_presets_are_options_too():
    sweep = read_command(["a red mug", "--preset", "dreamfusion", "lucid-splats"]).sweep
    one, two = plan_runs(sweep, "--")
    assert list(one.stages) == [""] and len(two.stages) == 2
    first, second = two.experiments(Path("out")).items()
    assert first[0].name.startswith("1-") and second[1].representation.init_from == first[0]


def test_nested_options():
    flat = {"method.critic.rank": 4, "method": "vsd", "method.critic": "lora"}
    assert nest(flat) == {"method": {"name": "vsd", "critic": {"name": "lora", "rank": 4}}}
