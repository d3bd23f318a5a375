"""A search of Optuna: its values, what a failed trial teaches, and resumption."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
import shlex

import pytest
from mortal_method import files_of, method_file, table_of

from limbeck.cli.judge_options import JudgeOptions
from limbeck.cli.main import main
from limbeck.cli.sweep_command_line import read_command
from limbeck.cli.sweep_judge import check_score
from limbeck.runs.run_command import read_run_command
from limbeck.sweeps.engines.process_pool import ProcessPool
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.expansion import Range, Search, Sweep
from limbeck.sweeps.optuna_study import OptunaStudy, _study_name, check_search
from limbeck.sweeps.planned_runs import plan_points
from limbeck.sweeps.progress import SweepProgress
from limbeck.sweeps.ranking import RankedSetting, run_command
from limbeck.sweeps.sweep_file import read_sweep, sweep_to_yaml
from limbeck.sweeps.sweep_folder import run_sweep
from limbeck.system.notices import Notice

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None,
    reason="Optuna is not installed: pip install limbeck[optuna]",
)
FIXED = {"prompts": ["red disc"], "model": "gaussians", "method": "sds", "steps": 2}
AXES = {"lr": (Range("log", 0.001, 10.0),), "method.guidance": (1, 2, 3, 4)}
TOY = ["red disc", "--model", "gaussians", "--device", "cpu", "--steps", "6"]


def search_of(trials, **changes):
    options = {
        "random": AXES,
        "draws": trials,
        "seeds": (0, 1),
        "search": Search("saturation"),
    }
    return Sweep(FIXED, **(options | changes))


def run_all(study, score, monkeypatch, failing=()):
    """Score every run by its options without running it; returns the options of each trial."""
    monkeypatch.setattr(OptunaStudy, "_score", lambda self, run: score(run.options))
    trials = []
    while runs := study.ask():
        trials.append(runs[0].options)
        names = {run.name for run in runs}
        failed = {n: RunOutcome(n, failing[0]) for n in names} if failing else {}
        study.settle(names - failed.keys(), failed)
    return trials


def peak(options):
    return -((math.log10(options["lr"]) - 0.5) ** 2) - (options["method.guidance"] != 3)


@needs_optuna
@pytest.mark.slow
def test_it_finds_the_peak_of_a_known_score(tmp_path, monkeypatch):
    first = run_all(OptunaStudy(search_of(25), tmp_path), peak, monkeypatch)
    assert len(first) == 25 and all(0.001 <= o["lr"] <= 10 for o in first)
    later = run_all(OptunaStudy(search_of(40), tmp_path), peak, monkeypatch)
    best = max(later, key=peak)
    assert best["method.guidance"] == 3 and abs(math.log10(best["lr"]) - 0.5) < 0.3
    near = [abs(math.log10(o["lr"]) - 0.5) < 1 for o in later]  # half of the range
    assert sum(near) >= 11


@needs_optuna
def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    first = run_all(OptunaStudy(search_of(4), tmp_path), peak, monkeypatch)
    study = OptunaStudy(search_of(6), tmp_path)
    assert len(study.known_runs()) == 2 * 4 and study.runs_per_trial == 2
    later = run_all(study, peak, monkeypatch)
    assert len(later) == 2 and not {o["lr"] for o in later} & {o["lr"] for o in first}
    assert run_all(OptunaStudy(search_of(6), tmp_path), peak, monkeypatch) == []
    other = search_of(3, seeds=(5,))  # other seeds are another study, in the same file
    assert len(run_all(OptunaStudy(other, tmp_path), peak, monkeypatch)) == 3


@needs_optuna
def test_a_trial_that_diverged_has_the_worst_value_and_a_killed_one_is_asked_again(
    tmp_path, monkeypatch
):
    study = OptunaStudy(search_of(4), tmp_path)
    run_all(study, peak, monkeypatch, ["stopped"])
    values = [trial.value for trial in study._study.trials]
    assert len(values) == 4 and len(set(values)) == 1 and math.isfinite(values[0])
    killed = run_all(OptunaStudy(search_of(6), tmp_path), peak, monkeypatch, ["killed"])
    again = run_all(OptunaStudy(search_of(6), tmp_path), peak, monkeypatch)
    assert len(killed) == 2 and again == killed


@needs_optuna
def test_a_trial_that_diverged_first_is_not_the_best(tmp_path, monkeypatch):
    """Total variation has no worst value that could be told in its place."""
    study = OptunaStudy(search_of(2, search=Search("total_variation", False)), tmp_path)
    run_all(study, peak, monkeypatch, ["stopped"])
    assert [trial.value for trial in study._study.trials] == [None, None]
    more = OptunaStudy(search_of(3, search=Search("total_variation", False)), tmp_path)
    run_all(more, lambda options: 0.3, monkeypatch)
    assert more._study.best_trial.number == 2


@needs_optuna
def test_a_trial_that_was_killed_before_its_values_were_chosen_has_no_runs(tmp_path, monkeypatch):
    OptunaStudy(search_of(3), tmp_path)._study.ask()
    for _ in range(2):  # the second time it has failed
        study = OptunaStudy(search_of(3), tmp_path)
        assert study.earlier_runs() == study.known_runs() == []
    assert len(run_all(study, peak, monkeypatch)) == 2


@needs_optuna
def test_a_setting_without_the_score_does_not_end_the_search(tmp_path, monkeypatch):
    def score(options):
        return None if options["method.guidance"] < 3 else peak(options)

    with pytest.warns(Notice, match="has no saturation: the search goes on") as notices:
        trials = run_all(OptunaStudy(search_of(8), tmp_path), score, monkeypatch)
    lacking = sum(options["method.guidance"] < 3 for options in trials)
    assert len(trials) == 8 and 0 < lacking < 8
    assert len(notices) == lacking
    more = OptunaStudy(search_of(9), tmp_path)
    assert len(more.known_runs()) == 2 * 8
    monkeypatch.setattr("limbeck.sweeps.optuna_study.notify", lambda text: None)
    assert len(run_all(more, score, monkeypatch)) == 1


@needs_optuna
def test_a_combination_that_is_refused_does_not_end_the_search(tmp_path, monkeypatch):
    ends = {"timesteps.t_min": (Range("uniform", 0.0, 0.6),)}
    ends["timesteps.t_max"] = (Range("uniform", 0.0, 0.6),)

    def score(options):
        return options["timesteps.t_max"]

    with pytest.warns(Notice, match="the search goes on without this setting") as notices:
        trials = run_all(OptunaStudy(search_of(8, random=ends), tmp_path), score, monkeypatch)
    assert 0 < len(trials) < 8 and len(trials) + len(notices) == 8
    more = OptunaStudy(search_of(8, random=ends), tmp_path)
    assert len(more.earlier_runs()) == len(more.known_runs()) == 2 * len(trials)
    assert more.ask() == []


@needs_optuna
def test_an_interrupted_trial_that_is_refused_is_passed_over(tmp_path, monkeypatch):
    study = OptunaStudy(search_of(2), tmp_path)
    assert study.ask()
    monkeypatch.setattr(OptunaStudy, "_runs", refuse)
    again = OptunaStudy(search_of(2), tmp_path)
    assert again.earlier_runs() == []
    with pytest.warns(Notice, match="refused: the search goes on"):
        assert again.ask() == []
    monkeypatch.undo()
    assert OptunaStudy(search_of(3), tmp_path).ask()  # a new one


def refuse(self, params):
    raise ValueError("refused")


@needs_optuna
def test_a_search_is_not_continued_with_another_version_of_ones_own_method(tmp_path, capsys):
    mine, out = tmp_path / "mine.py", tmp_path / "runs"
    text = "from limbeck.methods.sds import SDS\n\n\nclass Mine(SDS):\n    pass\n"
    mine.write_text(text, encoding="utf-8")
    words = ["sweep", *TOY[:-1], "1", "--method", f"{mine}:Mine", "--lr", "log:0.01:1"]
    words += ["--minimize", "saturation", "--out", str(out), "--workers", "1", "--optuna"]
    assert main([*words, "1"]) == 0
    mine.write_text(text + "\n# another formula\n", encoding="utf-8")
    assert main([*words, "2"]) == 2
    assert "one table must not mix two versions" in " ".join(capsys.readouterr().err.split())
    assert len(list(out.glob("*/run.yaml"))) == 1


@needs_optuna
def test_a_dry_run_of_a_search_lists_no_runs(tmp_path, capsys):
    words = ["sweep", *TOY, "--lr", "log:0.01:1", "--seed", "0", "1", "--maximize", "object"]
    assert main([*words, "--optuna", "3", "--dry-run", "--out", str(tmp_path / "s")]) == 0
    output, errors = capsys.readouterr()
    assert output == "" and not (tmp_path / "s").exists()
    assert "up to 3 settings x 2 seeds, which Optuna chooses one after another" in errors


@needs_optuna
def test_a_search_says_nothing_of_runs_that_it_does_not_make(tmp_path, capsys):
    words = ["sweep", *TOY, "--method.guidance", "1", "2", "--maximize", "object"]
    assert main([*words, "--optuna", "9", "--dry-run", "--out", str(tmp_path / "s")]) == 0
    assert "identical" not in capsys.readouterr().err


@needs_optuna
def test_a_search_on_a_cluster_without_room_waits_with_one_trial(tmp_path):
    class FullCluster(ProcessPool):
        capacity = 0
        queued = 0

        def run(self, queue, logs, on_poll):
            self.queued = len(queue)
            yield from ()

    engine, progress = FullCluster(device="cpu"), SweepProgress(tmp_path, [])
    run_sweep(search_of(3), progress, engine)
    assert engine.queued == len(progress.runs) == 2  # the seeds of a trial


def test_what_cannot_be_searched_for_is_refused(capsys, tmp_path, monkeypatch):
    words = ["sweep", *TOY, "--lr", "log:0.01:1"]
    for more, message in (
        (["--optuna", "5"], "--optuna needs one score"),
        (["--maximize", "object"], "need --optuna N"),
        (["--optuna", "5", "--random", "2", "--maximize", "object"], "exclude each other"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="--maximize beauty: no such score; there are object"):
        check_score(Search("beauty"), JudgeOptions())
    with pytest.raises(ValueError, match=r"clip_score needs a network: .* with --clip"):
        check_score(Search("clip_score"), JudgeOptions())
    check_score(Search("clip_score"), JudgeOptions(clip="openai/clip-vit-base-patch32"))
    with pytest.raises(ValueError, match="one range or a list"):
        check_search(search_of(2, search=Search("object"), random={"lr": (Range("log", 1, 2), 3)}))
    with pytest.raises(ValueError, match="method is in grid or zip"):
        search_of(2, grid={"method": ("sds", "vsd")})


def test_errors_of_a_search_file_name_its_own_options(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text("prompts: [a]\noptuna: {maximize: saturation, trials: x, lr: [1, 2]}\n")
    with pytest.raises(ValueError, match=r"optuna\.trials must be an integer, not 'x'"):
        read_sweep(file)


def test_without_optuna_one_line_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "s"
    words = ["sweep", *TOY, "--lr", "log:0.01:1", "--optuna", "2", "--minimize", "object"]
    assert main([*words, "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert "pip install 'limbeck[optuna]'" in errors and errors.count("\n") == 1
    assert not out.exists()


def test_a_search_is_read_from_the_file_that_it_writes(tmp_path):
    path = tmp_path / "sweep.yaml"
    sweep = search_of(7, draw_seed=3, search=Search("object", maximize=False))
    path.write_text(sweep_to_yaml(sweep), encoding="utf-8")
    assert "trials: 7" in path.read_text(encoding="utf-8")
    assert read_sweep(path) == sweep


@needs_optuna
def test_a_search_of_a_command_line_is_continued_from_its_file(tmp_path, monkeypatch):
    words = ["red disc", "blue ring", "--model", "gaussians", "--representation", "latents"]
    words += ["--representation.size", "8", "8", "--timesteps.t-max", "uniform:0.5:0.9999999"]
    typed = read_command([*words, "--optuna", "3", "--maximize", "saturation"]).sweep
    path = tmp_path / "sweep.yaml"
    path.write_text(sweep_to_yaml(typed), encoding="utf-8")
    assert read_sweep(path).random == typed.random, "all digits are written"

    def score(options):
        return options["timesteps.t_max"]

    assert len(run_all(OptunaStudy(typed, tmp_path), score, monkeypatch)) == 3
    assert run_all(OptunaStudy(read_sweep(path), tmp_path), score, monkeypatch) == []


@needs_optuna
def test_a_search_of_an_earlier_version_keeps_its_name():
    parts = (sorted((FIXED | {"prompts": ("red disc",)}).items()), sorted(AXES.items()), (0, 1))
    digest = hashlib.sha256(repr((*parts, Search("saturation"))).encode()).hexdigest()
    earlier = f"limbeck-{digest[:16]}"
    assert _study_name(search_of(3), [earlier]) == earlier
    assert _study_name(search_of(3), []) != earlier


def test_the_command_of_a_setting_is_read_as_its_run():
    fixed = {"prompts": ["a red mug"], "model": "gaussians", "steps": 3}
    fixed |= {"timesteps": "two-stage", "timesteps.late_t_min": None}
    fixed |= {"method.guidance": 7.123456789, "representation.size": (8, 8)}
    options = {"method": {"name": "vsd", "guidance": 1, "critic": {"name": "lora", "rank": 4}}}
    sweep = Sweep(fixed, random={"method": (options["method"], "sds")}, draws=2, seeds=(3, 4))
    words = shlex.split(run_command(sweep, RankedSetting(options, 0.5, 2)))
    (run,) = plan_points(sweep, [options | {"seed": 3}])
    assert read_run_command(words[2:]).experiment == run.stages[""]


@needs_optuna
@pytest.mark.slow
def test_a_search_is_resumed_and_prints_the_command_of_the_best_setting(tmp_path, capsys):
    out, method = tmp_path / "sweep", method_file(tmp_path)
    words = ["sweep", *TOY, "--method", method, "--lr", "log:0.01:1", "--seed", "0:2"]
    words += ["--method.kills", "1", "--checkpoint-every", "2", "--workers", "1"]
    words += ["--minimize", "saturation", "--out", str(out)]
    assert main([*words, "--optuna", "2"]) == 1  # one run of four is killed
    capsys.readouterr()
    before = files_of(out)
    assert main([*words, "--optuna", "4"]) == 0
    errors = capsys.readouterr().err
    rows = table_of(out)
    assert [row["state"] for row in rows] == ["finished"] * 8
    scores = {}
    for row in rows:
        scores.setdefault(row["lr"], []).append(float(row["saturation"]))
    assert {len(values) for values in scores.values()} == {2}
    best = min(scores, key=lambda lr: sum(scores[lr]))
    assert re.search(rf"best of 4 settings: lr {best}: ", errors)
    command = shlex.split(errors.split("to run it: ")[1].splitlines()[0])
    assert command[:3] == ["limbeck", "run", "red disc"] and f"--lr {best}" in " ".join(command)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Best setting" in page and f"--lr {best}" in page
    done = {p for p in before if p.name == "metrics.jsonl" and files_of(out)[p] == before[p]}
    assert len(done) == 3  # what was finished is not touched
