"""The runs of a sweep: the experiments of each point, its name, and what identical means."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limbeck.config.comparison import differences, fingerprint
from limbeck.config.option_types import option_type, takes_integers_only
from limbeck.config.yaml import build, join
from limbeck.runs.run_command import NO_PROMPTS, StartOptions, given_twice
from limbeck.sweeps.expansion import Draw, Sweep, nest
from limbeck.system.files import slug
from limbeck.training.experiment import Experiment, with_lr
from limbeck.training.idle_options import notify_idle_options
from limbeck.training.model_defaults import CHOICES
from limbeck.training.presets.base import apply_shared_options, start_stage_from
from limbeck.training.source_images import check_edit_source

_ALL_DIGITS = 17  #: of a number in double precision
_MAX_NAME = 80  #: characters of the name of a run folder before its hash


@dataclass(frozen=True)
class ExtraOptions(StartOptions):
    """Options of a run beside those of its experiment.

    Attributes:
        lr: peak learning rate of the representation, short for --representation.lr.
    """

    lr: float | None = field(default=None, metadata={"minimum": 0})


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep.

    Attributes:
        name: name of its folder.
        options: options in which the runs differ.
        stages: experiments by stage name; a single one is called "".
        key: hash of the configuration of all stages.
    """

    name: str
    options: Mapping[str, Any]
    stages: Mapping[str, Experiment]
    key: str

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages.values())

    def folders(self, root: Path) -> list[Path]:
        """Run folder of each stage.

        Args:
            root: folder of the sweep.
        """
        folder = root / self.name
        if list(self.stages) == [""]:
            return [folder]
        return [folder / f"{number}-{name}" for number, name in enumerate(self.stages, 1)]

    def experiments(self, root: Path) -> dict[Path, Experiment]:
        """Experiment by run folder, in order; a later stage starts from the one before.

        Args:
            root: folder of the sweep.
        """
        folders = self.folders(root)
        found = dict(zip(folders, self.stages.values(), strict=True))
        for before, folder in itertools.pairwise(folders):
            found[folder] = start_stage_from(found[folder], before)
        return found


def plan_runs(sweep: Sweep, path: str = "") -> list[PlannedRun]:
    """The runs of a sweep, in order; identical ones are planned once.

    Args:
        sweep: the sweep.
        path: ``--`` if the options are those of a command line, for messages.

    Raises:
        ValueError: if an option is unknown or a value is refused, in any of the runs, or if two
            values of an option would name the same row of a table.
    """
    for key, values in (sweep.grid | sweep.zip | sweep.random).items():
        exact = {format_option(value, _ALL_DIGITS): format_option(value) for value in values}
        labels = list(exact.values())
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(
                f"{join(path, key)} has {twice[0]} twice to six digits, which names a row: give "
                "values that differ more"
            )
    return plan_points(sweep, sweep.points(), path)


def plan_points(
    sweep: Sweep, points: Sequence[Mapping[str, Any]], path: str = ""
) -> list[PlannedRun]:
    """The runs with certain values of the options that vary, as ``plan_runs`` plans them.

    Args:
        sweep: the sweep.
        points: options of each run beyond ``fixed``.
        path: as for ``plan_runs``.
    """
    planned: dict[str, PlannedRun] = {}
    for point in points:
        try:
            point = with_numbers(sweep.fixed, point, path)
            stages = build_stages(nest({**sweep.fixed, **point}), path)
        except ValueError as error:
            varied = {key: point[key] for key in sweep.varied if not isinstance(point[key], Draw)}
            where = f"; this is in the run with {label_of(varied)}" if varied else ""
            raise ValueError(f"{error}{where}") from error
        run = planned_run({name: point[name] for name in sweep.varied}, stages)
        _check_identical(planned.setdefault(run.key, run), run)
    return list(planned.values())


def _check_identical(first: PlannedRun, second: PlannedRun) -> None:
    """Refuse two runs that differ and have the same hash, as the second would be left out."""
    pairs = [(stage, second.stages.get(name)) for name, stage in first.stages.items()]
    if first is not second and any(other is None or differences(a, other) for a, other in pairs):
        raise ValueError(
            f"{first.name} and {second.name} differ and have the same hash by chance: run one of "
            "them in a sweep of its own"
        )


def planned_run(options: Mapping[str, Any], stages: Mapping[str, Experiment]) -> PlannedRun:
    """A run with its name and the hash of its configuration.

    Args:
        options: options in which the runs differ.
        stages: experiments by stage name; a single one is called "".
    """
    prints = "".join(f"{name}{fingerprint(stage)}" for name, stage in stages.items())
    key = prints if len(stages) == 1 else hashlib.sha256(prints.encode()).hexdigest()[:8]
    return PlannedRun(_run_name(options, key), options, stages, key)


def with_numbers(
    fixed: Mapping[str, Any], point: Mapping[str, Any], path: str = ""
) -> dict[str, Any]:
    """The options of a run with a number for each random draw, an integer where one is needed.

    Args:
        fixed: options of all runs.
        point: options of this run.
        path: ``--`` if they are those of a command line, for messages.

    Raises:
        ValueError: if an option takes integers and its range is one of fractions.
    """
    draws = {key: value for key, value in point.items() if isinstance(value, Draw)}
    numbers = dict(point)
    if not draws:
        return numbers
    plain = nest({k: v for k, v in {**fixed, **point}.items() if k not in draws})
    extra, own = _split_options(plain, path)
    default = extra.defaults({k: own[k] for k in CHOICES if k in own}).experiment
    for key, draw in draws.items():
        is_extra = key.partition(".")[0] in ExtraOptions.__dataclass_fields__
        instance: Any = extra if is_extra else default
        is_whole = takes_integers_only(option_type(type(instance), key, plain, instance))
        try:
            numbers[key] = draw.integer if is_whole else draw.number
        except ValueError as error:
            raise ValueError(f"{join(path, key)}: {error}") from error
    return numbers


def build_stages(plain: dict[str, Any], path: str = "") -> dict[str, Experiment]:
    """The experiments of nested options: one called "", or the stages of a preset.

    Args:
        plain: options of ``Experiment`` and ``ExtraOptions``.
        path: ``--`` if they are those of a command line, for messages.

    Raises:
        ValueError: if an option is unknown or a value is refused.
    """
    extra, own = _split_options(plain, path)
    representation = own.get("representation")
    if extra.lr is not None and isinstance(representation, dict) and "lr" in representation:
        raise given_twice(join(path, "lr"), join(path, "representation.lr"))
    default, _, stages = extra.defaults({k: own[k] for k in CHOICES if k in own})
    own.setdefault("prompts", default.prompts)
    chosen = build(Experiment, own, path, default)
    if chosen.prompts == NO_PROMPTS:
        raise ValueError("a prompt is missing: give at least one text that is not empty")
    notify_idle_options(chosen.representation, default.representation)
    if extra.preset is not None:
        extra.preset.check_model(chosen.model)
        extra.preset.check_start(chosen)
    if extra.lr is not None:
        chosen = with_lr(chosen, extra.lr)
    check_edit_source(chosen, chosen.model)
    if len(stages) <= 1:
        return {"": chosen}
    return {name: apply_shared_options(default, chosen, stage) for name, stage in stages.items()}


def _split_options(plain: Mapping[str, Any], path: str) -> tuple[ExtraOptions, dict[str, Any]]:
    """The extra options, and those of the experiment."""
    names = ExtraOptions.__dataclass_fields__
    extra = build(ExtraOptions, {k: plain[k] for k in plain if k in names}, path)
    return extra, {k: v for k, v in plain.items() if k not in names}


def format_option(value: Any, digits: int = 6) -> str:
    """The value of an option in a name or a table.

    Args:
        value: the value, also of several words or of a component with options.
        digits: significant digits of a number that is no integer.
    """
    if isinstance(value, dict):
        rest = [f"{key} {format_option(v, digits)}" for key, v in value.items() if key != "name"]
        return ", ".join([*([str(value["name"])] if "name" in value else []), *rest])
    if isinstance(value, list | tuple):
        return " ".join(format_option(item, digits) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def short_names(options: Sequence[str]) -> dict[str, str]:
    """The last word of each dotted option, or all of it where that is not unique."""
    last = [option.rpartition(".")[2] for option in options]
    return {
        option: (word if last.count(word) == 1 else option).replace("_", " ").replace(".", " ")
        for option, word in zip(options, last, strict=True)
    }


def label_of(options: Mapping[str, Any]) -> str:
    """Options and values in one line: ``method vsd, guidance 7.5``."""
    names = short_names(list(options))
    return ", ".join(f"{names[key]} {format_option(value)}" for key, value in options.items())


def _run_name(options: Mapping[str, Any], key: str) -> str:
    names, words = short_names(list(options)), []
    for option, value in options.items():
        text = re.sub(r"[^A-Za-z0-9.]+", "-", format_option(value)).strip("-.")
        is_word = isinstance(value, str) and not re.fullmatch(r"[-+.\de]+|true|false|none", value)
        words.append(text if is_word else f"{slug(names[option])}-{text}")
    return "-".join([*_shortened(words), key])


def _shortened(words: Sequence[str]) -> list[str]:
    """Words that fit into the name of a folder: the longest are cut, so that a seed stays whole."""
    room = _MAX_NAME - len(words)
    longest = max(map(len, words), default=0)
    while longest > 1 and sum(min(len(word), longest) for word in words) > room:
        longest -= 1
    return [short for word in words if (short := word[:longest].strip("-."))]


def with_found_names(runs: Sequence[PlannedRun], root: Path) -> list[PlannedRun]:
    """The runs with the names of their folders below ``root``, where there are some.

    A folder is found by the hash at its end, so a sweep that varies further options finds the
    runs that it had before.
    """
    found = {path.name.rpartition("-")[2]: path.name for path in root.glob("*") if path.is_dir()}
    return [replace(run, name=found.get(run.key, run.name)) for run in runs]
