"""A search of Optuna for the best setting: one trial is a setting with all seeds of the sweep."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from limbeck.metrics.bounds import metric_bounds
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.expansion import SEED, Draw, Range, Sweep
from limbeck.sweeps.planned_runs import PlannedRun, format_option, plan_points, with_found_names
from limbeck.sweeps.results import read_finished
from limbeck.system.extras import require_package
from limbeck.system.notices import notify

STUDY_FILE = "optuna.journal"


def check_search(sweep: Sweep) -> None:
    """Refuse early a search that cannot work.

    Raises:
        ModuleNotFoundError: if Optuna is not installed.
        ValueError: if a range stands beside other values.
    """
    require_package("optuna")
    for key, values in sweep.random.items():
        ranges = [value for value in values if isinstance(value, Range)]
        if ranges and len(values) > 1:
            raise ValueError(f"{key}: Optuna takes one range or a list of values, not both")


class OptunaStudy:
    """The trials of a sweep, stored in its folder, where the same command continues them.

    A trial is complete when all of its runs are finished, and its value is the mean score. One that
    a run with numbers that are not finite has stopped gets the worst value so far, so that the
    sampler avoids its neighborhood. One whose runs lack the score has failed for good. One with
    runs that failed otherwise stays open: the same command completes them.

    Args:
        sweep: the sweep, with a ``search``.
        root: its folder.
        is_judged: whether the metrics of eval.json count, which every finished run then has.
    """

    def __init__(self, sweep: Sweep, root: Path, is_judged: bool = False):
        import optuna
        from optuna.storages.journal import JournalFileBackend

        assert sweep.search is not None
        self.sweep, self.search, self.root = sweep, sweep.search, root
        self.is_judged = is_judged
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        root.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(root / STUDY_FILE)))
        self._study = optuna.create_study(
            storage=storage,
            study_name=_study_name(sweep, optuna.get_all_study_names(storage)),
            direction=self.search.word,
            load_if_exists=True,
        )
        trials = self._study.get_trials(deepcopy=False)
        # another seed than in the sessions before, which would only repeat their draws
        seed = sweep.draw_seed + len(trials)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        states = optuna.trial.TrialState
        # a trial that was killed while its values were chosen lacks some, and has no run
        cut = [trial for trial in trials if trial.params.keys() != sweep.random.keys()]
        for trial in cut:
            if trial.state == states.RUNNING:
                self._study.tell(trial.number, state=states.FAIL)
        trials = [trial for trial in trials if trial not in cut]
        self._left = [trial for trial in trials if trial.state == states.RUNNING]
        self._known = [trial for trial in trials if trial.state != states.RUNNING]
        self._open: dict[int, list[PlannedRun]] = {}

    @property
    def num_open(self) -> int:
        """Number of trials whose runs have not all ended."""
        return len(self._open)

    @property
    def runs_per_trial(self) -> int:
        """Number of seeds."""
        return len(self.sweep.seeds) or 1

    def earlier_runs(self) -> list[PlannedRun]:
        """The runs of all trials of earlier sessions, also of those that will be continued."""
        return self._accepted_runs([*self._known, *self._left])

    def known_runs(self) -> list[PlannedRun]:
        """The runs of the trials of earlier sessions that are complete."""
        return self._accepted_runs(self._known)

    def ask(self) -> list[PlannedRun]:
        """The runs of the next trial, those of an interrupted one first; empty at the end.

        A trial with a combination of values that is refused has failed for good.
        """
        import optuna

        while (trial := self._next_trial()) is not None:
            try:
                runs = self._runs(trial.params)
            except ValueError as error:
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                notify(f"{error}: the search goes on without this setting")
                continue
            self._open[trial.number] = runs
            return runs
        return []

    def _next_trial(self) -> Any:
        """An interrupted trial, or a new one with its values; None at the end."""
        if self._left:
            return self._left.pop(0)
        if len(self._study.get_trials(deepcopy=False)) >= self.sweep.draws:
            return None
        asked = self._study.ask()
        for key, values in self.sweep.random.items():
            _suggest(asked, key, values)
        return asked

    def settle(self, finished: Collection[str], failed: Mapping[str, RunOutcome]) -> None:
        """Tell Optuna of the trials whose runs have all ended.

        Args:
            finished: names of the runs that are finished.
            failed: outcome by name of the runs that failed.
        """
        for number, runs in list(self._open.items()):
            names = {run.name for run in runs}
            if names - set(finished) - failed.keys():
                continue
            del self._open[number]
            outcomes = [failed[name] for name in names & failed.keys()]
            if not outcomes:
                self._tell_score(number, runs)
            elif all(outcome.is_final for outcome in outcomes):
                self._tell_worst(number)

    def _tell_score(self, number: int, runs: Sequence[PlannedRun]) -> None:
        """Tell the mean score of a trial, or that it has none, as that of diversity needs two."""
        import optuna

        scores = [self._score(run) for run in runs]
        found = [score for score in scores if score is not None]
        if len(found) == len(runs):
            self._study.tell(number, math.fsum(found) / len(runs))
            return
        self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        lacking = runs[scores.index(None)].name
        notify(f"{lacking} has no {self.search.score}: the search goes on without this setting")

    def _tell_worst(self, number: int) -> None:
        """Tell the worst value so far; before the first the worst possible, or none without one."""
        import optuna

        trials = self._study.get_trials(deepcopy=False)
        worst = min if self.search.maximize else max
        values = [trial.value for trial in trials if trial.value is not None]
        bound = metric_bounds(self.search.score)[0 if self.search.maximize else 1]
        if values or math.isfinite(bound):
            self._study.tell(number, worst(values) if values else bound)
        else:
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)

    def _score(self, run: PlannedRun) -> float | None:
        """The score of a run; None if it has none, or one that could not be computed."""
        return read_finished(run, self.root, self.is_judged).mean_scores.get(self.search.score)

    def _accepted_runs(self, trials: Sequence[Any]) -> list[PlannedRun]:
        """The runs of trials, without the trials whose combination of values is refused."""
        runs: list[PlannedRun] = []
        for trial in trials:
            with suppress(ValueError):
                runs += self._runs(trial.params)
        return runs

    def _runs(self, params: Mapping[str, Any]) -> list[PlannedRun]:
        setting = {key: _value(values, params[key]) for key, values in self.sweep.random.items()}
        seeds: list[dict[str, Any]] = [{SEED: seed} for seed in self.sweep.seeds] or [{}]
        runs = plan_points(self.sweep, [setting | seed for seed in seeds])
        return with_found_names(runs, self.root)


def _study_name(sweep: Sweep, known: Collection[str]) -> str:
    """A name that is another one if the search has other options, values, seeds or scores.

    It is the same for a command line and for the file that it writes, which has lists for tuples.

    Args:
        sweep: the sweep.
        known: names of the studies that there are. One of an earlier version, which hashed prompts
            of the command line as a tuple, keeps its name.
    """
    fixed = {k: list(v) if isinstance(v, tuple) else v for k, v in sweep.fixed.items()}
    earlier = dict(fixed)
    if isinstance(prompts := fixed.get("prompts"), list):
        earlier["prompts"] = tuple(prompts)
    names = []
    for options in (fixed, earlier):
        parts = (sorted(options.items()), sorted(sweep.random.items()), sweep.seeds, sweep.search)
        names.append(f"limbeck-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}")
    return names[1] if names[1] in known else names[0]


def _suggest(trial: Any, key: str, values: Sequence[Any]) -> None:
    """Let Optuna choose a value: from a range, evenly spaced integers in order, or a list."""
    first = values[0]
    if isinstance(first, Range):
        trial.suggest_float(key, first.low, first.high, log=first.scale == "log")
    elif (step := _step(values)) > 0:
        trial.suggest_int(key, first, values[-1], step=step)
    else:
        trial.suggest_categorical(key, [format_option(value) for value in values])


def _step(values: Sequence[Any]) -> int:
    """Distance of evenly spaced integers, at least three; else 0."""
    if len(values) < 3 or any(type(value) is not int for value in values):
        return 0
    steps = {b - a for a, b in itertools.pairwise(values)}
    return max(0, steps.pop()) if len(steps) == 1 else 0


def _value(values: Sequence[Any], param: Any) -> Any:
    """The value of an option that a parameter of Optuna stands for."""
    first = values[0]
    if isinstance(first, Range):
        low, high = first.low, first.high
        if first.scale == "log":
            low, high, param = math.log(low), math.log(high), math.log(param)
        return Draw(first, (param - low) / (high - low))
    if _step(values) > 0:
        return param
    return next(value for value in values if format_option(value) == param)
