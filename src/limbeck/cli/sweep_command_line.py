"""The command line of ``limbeck sweep``: options with several values."""

from __future__ import annotations

import itertools
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.cli.judge_options import JudgeOptions
from limbeck.config.command_line import Option, list_options, parse, unknown_option
from limbeck.config.discovery import union_members
from limbeck.config.yaml import describe_type
from limbeck.sweeps.expansion import (
    SEED,
    Axes,
    Range,
    Search,
    Sweep,
    expand_values,
    option_key,
)
from limbeck.sweeps.planned_runs import ExtraOptions
from limbeck.sweeps.sweep_file import read_sweep
from limbeck.training.experiment import Experiment

ABOUT = """Run an experiment with every combination of the values that its options are given, such
as --method sds vsd --seed 0:4. Each run has its own process and folder. The same command skips
what is finished and completes what was killed. Prompts come first; a .yaml file in their place
holds options, grid, zip, random and seeds."""
SHORT_HELP = (
    "zip",
    "random",
    "optuna",
    "maximize",
    "workers",
    "retries",
    "ray",
    "slurm",
    "eval",
    "clip",
    "score",
    "rows",
    "columns",
    "out",
    "device",
    "dry-run",
    "method",
    "model",
    "steps",
    "seed",
    "lr",
)
HELP = ("-h", "--help", "--help-all")
_MAX_COMBINATIONS = 64  #: of components whose options are collected
FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class SweepOptions:
    """Which runs there are, how they are executed and shown.

    Attributes:
        zip: options with several values go together, the first with the first, and so on.
        random: number of random draws from the options with several values or a range, such as
            log:0.01:1 or uniform:1:10; 0 for every combination.
        random_seed: seed of the random draws, or of Optuna; by default that of the file, or 0.
        optuna: number of settings that Optuna tries to find the best one, from the options with
            several values or a range; 0 not to search.
        maximize: score of results.csv that the search is for, such as object, or a metric of
            limbeck eval.
        minimize: the same for a score that is to be small.
        workers: runs at a time; 0 for one per GPU, or per core on a CPU.
        retries: further attempts for a run that is killed, runs out of memory or fails.
        ray: run on a Ray cluster: its address HOST:PORT, auto for the one that this machine is part
            of, or local to start Ray here.
        slurm: run every run as a job of Slurm.
        partition: partition of Slurm; by default that of the cluster.
        minutes_per_run: time limit of a job of Slurm, before which the run writes a checkpoint and
            stops; 0 for that of the partition.
        gpus_per_run: GPUs of a run on a cluster, 0.5 for two runs on each; by default one if there
            are any.
        cpus_per_run: cores of a run on a cluster.
        eval: evaluate each run when it has finished, as limbeck eval does; the options of networks
            and scores imply it.
        rows: option of the rows of the image matrix in report.html.
        columns: option of its columns.
        out: folder of the sweep; by default it is named after the file, or after the prompt and the
            options that vary.
        device: auto, cpu, cuda, cuda:N or mps; auto and cuda take all GPUs in turn.
        image_every: steps between recorded images; 0 for about ten per run.
        checkpoint_every: steps between checkpoints; 0 for one every 30 seconds.
        films: turntables, stills and meshes over time of 3D runs, which take up to a minute each.
        dry_run: list the runs and write nothing.
    """

    zip: bool = False
    random: int = field(default=0, metadata={"minimum": 0})
    random_seed: int | None = None
    optuna: int = field(default=0, metadata={"minimum": 0})
    maximize: str = ""
    minimize: str = ""
    workers: int = field(default=0, metadata={"minimum": 0})
    retries: int = field(default=0, metadata={"minimum": 0})
    ray: str = ""
    slurm: bool = False
    partition: str = ""
    minutes_per_run: int = field(default=0, metadata={"minimum": 0})
    gpus_per_run: float | None = field(default=None, metadata={"minimum": 0})
    cpus_per_run: int = field(default=1, metadata={"minimum": 1})
    eval: bool = False
    rows: str = ""
    columns: str = ""
    out: Path | None = None
    device: str = "auto"
    image_every: int = field(default=0, metadata={"minimum": 0})
    checkpoint_every: int = field(default=0, metadata={"minimum": 0})
    films: bool = True
    dry_run: bool = False


@dataclass(frozen=True)
class SweepCommand:
    """A command line of ``limbeck sweep``.

    Attributes:
        sweep: the runs.
        options: how they are executed and shown.
        judges: what judges them when they have finished.
        file: file that the sweep is read from, if any.
    """

    sweep: Sweep
    options: SweepOptions
    judges: JudgeOptions
    file: Path | None


def read_command(argv: Sequence[str]) -> SweepCommand:
    """Read a command line.

    Raises:
        ValueError: if an option is unknown, has no value, or does not go with the others.
        SystemExit: after the help.
    """
    loose, groups = split_words(argv)
    own = {option.flag for cls in (SweepOptions, JudgeOptions) for option in list_options(cls)}
    own |= {flag.replace("--", "--no-", 1) for flag in own}
    words = [word for flag, values in groups if flag in own for word in (flag, *values)]
    options, judges = parse([(SweepOptions, None), (JudgeOptions, None)], words)
    groups = [(flag, values) for flag, values in groups if flag not in own]
    file = Path(loose[0]) if loose and loose[0].endswith(FILES) else None
    if file is not None and loose[1:]:
        raise ValueError(f"{loose[1]!r} follows {file}: give a file or prompts, not both")
    base = read_sweep(file) if file is not None else Sweep()
    values = _option_values(groups, base, argv)
    fixed: dict[str, Any] = {k: v[0] for k, v in values.items() if _is_fixed(v)}
    if loose and file is None:
        if "prompts" in values:
            raise ValueError("--prompts and prompts before the options: give them once")
        fixed["prompts"] = tuple(loose)
    varied = {k: v for k, v in values.items() if not _is_fixed(v)}
    seeds = varied.pop(SEED, ())
    if options.zip and options.random:
        raise ValueError("--zip and --random exclude each other: give one of them")
    search = _search_of(options)
    if options.random_seed is not None and not (options.random or search or base.draws):
        raise ValueError("--random-seed needs --random N or --optuna N: nothing is drawn without")
    kind = "zip" if options.zip else "random" if options.random or search else "grid"
    if options.zip and not varied:
        raise ValueError("--zip needs options with several values")
    draws: dict[str, Any] = {}
    if number := options.random or options.optuna:
        draws = {"draws": number, "search": search}
    if options.random_seed is not None:
        draws["draw_seed"] = options.random_seed
    sweep = base.with_options(fixed, **{kind: varied}, seeds=seeds, **draws)
    return SweepCommand(sweep, options, judges, file)


def _search_of(options: SweepOptions) -> Search | None:
    """What Optuna searches for; None without ``--optuna``."""
    scores = [score for score in (options.maximize, options.minimize) if score]
    if not options.optuna:
        if scores:
            raise ValueError(f"--maximize and --minimize {scores[0]} need --optuna N")
        return None
    if options.zip or options.random:
        raise ValueError("--optuna, --zip and --random exclude each other: give one of them")
    if len(scores) != 1:
        raise ValueError("--optuna needs one score: give --maximize SCORE or --minimize SCORE")
    return Search(scores[0], bool(options.maximize))


def _is_fixed(values: Sequence[Any]) -> bool:
    return len(values) == 1 and not isinstance(values[0], Range)


def split_words(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The words before the first option, and each option with the words that follow it."""
    loose, groups = list[str](), list[tuple[str, list[str]]]()
    for number, word in enumerate(argv):
        if word == "--":
            return loose + list(argv[number + 1 :]), groups
        if word.startswith("--") or word == "-h":
            flag, equals, joined = word.partition("=")
            groups.append((flag.replace("_", "-"), [joined] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            loose.append(word)
    return loose, groups


def _option_values(
    groups: Sequence[tuple[str, list[str]]], base: Sweep, argv: Sequence[str]
) -> Axes:
    """Values of each option of the runs; an option given several times has all of its values."""
    found = _options_of_runs(groups, base, argv)
    hints = {option.flag: option.hint for option in found}
    values: Axes = {}
    for flag, words in groups:
        parent, _, name = flag.rpartition(".")
        positive = f"{parent}.{name.removeprefix('no-')}" if parent else flag.replace("no-", "", 1)
        if flag not in hints and hints.get(positive) is bool and not words:
            flag, words = positive, ["false"]
        if flag not in hints:
            raise unknown_option(flag, found)
        key = option_key(flag.removeprefix("--"))
        values[key] = values.get(key, ()) + _typed_values(flag, hints[flag], words)
    return values


def _typed_values(flag: str, hint: Any, words: Sequence[str]) -> tuple[Any, ...]:
    """The values that the words of an option stand for."""
    members, args = union_members(hint), typing.get_args(hint)
    if hint is bool:
        return tuple(words) or ("true",)
    if not words:
        raise ValueError(f"{flag} needs a value, {describe_type(hint)}")
    if typing.get_origin(hint) is tuple and args[1:] == (...,):
        return (list(words),)
    if typing.get_origin(hint) is tuple:
        size = len(args)
        if len(words) % size:
            raise ValueError(f"{flag} takes {size} words a value, and {len(words)} are given")
        return tuple(list(words[i : i + size]) for i in range(0, len(words), size))
    if not {int, float} & set(members):
        return tuple(words)
    return tuple(_number(value) for value in expand_values(words))


def _number(value: Any) -> Any:
    """A word as a number, if it is one."""
    for kind in (int, float) if isinstance(value, str) else ():
        with suppress(ValueError):
            return kind(value)
    return value


def _options_of_runs(
    groups: Sequence[tuple[str, list[str]]], base: Sweep, argv: Sequence[str]
) -> list[Option]:
    """The options of all runs, for every combination of the components that are named.

    Prints the help if it is asked for.
    """
    texts = {
        f"--{key.replace('_', '-')}": [value]
        for key, value in base.fixed.items()
        if isinstance(value, str)
    }
    for key, values in (base.grid | base.zip | base.random).items():
        texts[f"--{key.replace('_', '-')}"] = [v for v in values if isinstance(v, str)]
    for flag, words in groups:
        names = [word for word in words if not isinstance(_number(word), int | float)]
        if names and flag not in HELP:
            texts[flag] = names
    found: dict[str, Option] = {}
    combinations = itertools.product(
        *([(k, v) for v in values] for k, values in texts.items() if values)
    )
    for combination in itertools.islice(combinations, _MAX_COMBINATIONS):
        words = [word for pair in combination for word in pair]
        recipe = [word for pair in combination if pair[0].startswith("--preset") for word in pair]
        (extra,) = parse([(ExtraOptions, None)], recipe)
        stages = extra.preset.stages(("(a prompt)",)) if extra.preset is not None else {}
        sections = [(ExtraOptions, extra), (Experiment, next(iter(stages.values()), None))]
        if set(HELP) & set(argv):
            asked = [word for flag, own in groups if flag in HELP for word in (flag, *own)]
            shown: list[tuple[type, Any]] = [(SweepOptions, None), (JudgeOptions, None), *sections]
            about = " ".join(ABOUT.split())
            parse(shown, [*words, *asked], "limbeck sweep", about, "prompts", SHORT_HELP)
        for cls, default in sections:
            found |= {option.flag: option for option in list_options(cls, default, words)}
    return list(found.values())
