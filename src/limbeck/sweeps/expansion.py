"""Which runs a sweep has: grid, zip, random draws and seeds over the options of an experiment."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from limbeck.config.checks import check_options

Axes = dict[str, tuple[Any, ...]]
"""Values by dotted option with underscores, such as ``method.guidance``."""

SEED = "seed"
_SAME = (("lr", "representation.lr"),)  #: a short name and the option that it stands for
MAX_RUNS = 100_000  #: a sweep of more runs is a mistake
_RANGE = re.compile(r"(?P<scale>uniform|log):(?P<low>[^:]+):(?P<high>[^:]+)")
_INTEGERS = re.compile(r"(-?\d+):(-?\d+)(?::(\d+))?")
_NUMBERS = re.compile(r"([-+.\deE]*\d[-+.\deE]*):([-+.\deE]*\d[-+.\deE]*)")
_DIGITS = 4  #: significant digits of a random draw


@dataclass(frozen=True)
class Range:
    """A range of numbers to draw from at random.

    Attributes:
        scale: ``uniform``, or ``log`` for a uniform logarithm.
        low: smallest value.
        high: largest value.
    """

    scale: str
    low: float
    high: float

    def __post_init__(self) -> None:
        check_options(self)
        if self.low >= self.high or (self.scale == "log" and self.low <= 0):
            positive = "0 < LOW < HIGH" if self.scale == "log" else "LOW < HIGH"
            raise ValueError(f"{self} is empty: write {self.scale}:LOW:HIGH with {positive}")

    def __str__(self) -> str:
        return f"{self.scale}:{_exact_text(self.low)}:{_exact_text(self.high)}"


def _exact_text(number: float) -> str:
    """A number in six digits, or in all where they do not say it."""
    text = f"{number:g}"
    return text if float(text) == number else repr(number)


@dataclass(frozen=True)
class Draw:
    """A random draw from a range; the type of its option decides what number it is.

    Attributes:
        range: the range.
        position: uniform in [0, 1).
    """

    range: Range
    position: float

    @property
    def number(self) -> float:
        """A value of four digits, as it is written in names and tables."""
        low, high = self.range.low, self.range.high
        if self.range.scale == "log":
            value = math.exp(self._between(math.log(low), math.log(high)))
        else:
            value = self._between(low, high)
        return min(max(float(f"{value:.{_DIGITS}g}"), low), high)

    @property
    def integer(self) -> int:
        """An integer from the range, both ends included.

        Raises:
            ValueError: if an end is not an integer.
        """
        low, high = self.range.low, self.range.high
        if not (float(low).is_integer() and float(high).is_integer()):
            scale = self.range.scale
            raise ValueError(
                f"{self.range} is a range of fractions, and this option takes integers: write "
                f"{scale}:LOW:HIGH with integers"
            )
        if self.range.scale == "log":  # each takes the part of the range that is rounded to it
            ends = math.log(low - 0.5), math.log(high + 0.5)
            value = round(math.exp(self._between(*ends)))
        else:
            value = math.floor(self._between(low, high + 1))
        return min(max(value, int(low)), int(high))

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self.position


@dataclass(frozen=True)
class Search:
    """What the settings of a sweep are chosen for, instead of drawing them at random.

    Attributes:
        score: a score of ``results.csv``, mean over prompts and seeds.
        maximize: whether it is to be large; else small.
    """

    score: str
    maximize: bool = True

    @property
    def word(self) -> str:
        """``maximize`` or ``minimize``."""
        return "maximize" if self.maximize else "minimize"


@dataclass(frozen=True)
class Sweep:
    """Options of many runs. Every grid point is combined with every zip, draw and seed.

    Attributes:
        fixed: options of all runs.
        grid: options that are combined in every way.
        zip: options whose values go together, the first with the first, and so on.
        random: options whose values are drawn at random, from a list or a ``Range``.
        draws: number of random draws.
        draw_seed: seed of the random draws.
        seeds: seeds of the runs; empty for the seed of ``fixed``.
        search: what Optuna chooses the values of ``random`` for; None to draw them at random.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    grid: Axes = field(default_factory=dict)
    zip: Axes = field(default_factory=dict)
    random: Axes = field(default_factory=dict)
    draws: int = 0
    draw_seed: int = 0
    seeds: tuple[Any, ...] = ()
    search: Search | None = None

    def __post_init__(self) -> None:
        if self.search is not None and (others := [*self.grid, *self.zip]):
            raise ValueError(
                f"{others[0]} is in grid or zip, and Optuna chooses all that varies: give its "
                "values to the search"
            )
        parts = [self.fixed, self.grid, self.zip, self.random]
        keys = [key for part in parts for key in part] + [SEED] * bool(self.seeds)
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"{key} is given twice: fixed, in grid, zip, random or as seeds")
        for key, values in (self.grid | self.zip | self.random).items():
            if not values:
                raise ValueError(f"{key} has no values: give a list")
            if key not in self.random and (found := [v for v in values if isinstance(v, Range)]):
                raise ValueError(
                    f"{key}: {found[0]} is drawn at random: say how often with --random N, or "
                    "random: {draws: N} in a file"
                )
        if found := [seed for seed in self.seeds if isinstance(seed, Range)]:
            raise ValueError(f"seeds are not drawn at random: write A:B, not {found[0]}")
        counts = {key: len(values) for key, values in self.zip.items()}
        if len(set(counts.values())) > 1:
            lengths = ", ".join(f"{key} has {count}" for key, count in counts.items())
            raise ValueError(f"options of zip need equally many values: {lengths}")
        if bool(self.random) != bool(self.draws) or self.draws < 0:
            raise ValueError(
                f"random draws need their number, at least 1, and an option with several values "
                f"or a range such as log:0.01:1, not {self.draws} draws of "
                f"{', '.join(self.random) or 'no option'}"
            )
        if self.count > MAX_RUNS:
            raise ValueError(f"{self.count:,} runs are more than {MAX_RUNS:,}: give fewer values")

    @property
    def count(self) -> int:
        """Number of runs, before identical ones are found."""
        zipped = len(next(iter(self.zip.values()), (None,)))
        grid = math.prod(len(values) for values in self.grid.values())
        return grid * zipped * (self.draws or 1) * (len(self.seeds) or 1)

    @property
    def varied(self) -> list[str]:
        """The options that differ between runs, the seed last."""
        axes = self.grid | self.zip | self.random
        names = [key for key, values in axes.items() if len(values) > 1 or key in self.random]
        return names + [SEED] * (len(self.seeds) > 1)

    def points(self) -> list[dict[str, Any]]:
        """Options of each run beyond ``fixed``; a ``Draw`` where one is from a range.

        All settings come with the first seed, then all with the second, so that a sweep that is
        stopped early has compared every setting.
        """
        grid = [
            dict(zip(self.grid, v, strict=True)) for v in itertools.product(*self.grid.values())
        ]
        zipped = [dict(zip(self.zip, v, strict=True)) for v in zip(*self.zip.values(), strict=True)]
        drawn = [
            {key: self._draw(key, values, i) for key, values in self.random.items()}
            for i in range(self.draws or 1)
        ]
        seeds: list[dict[str, Any]] = [{SEED: seed} for seed in self.seeds] or [{}]
        settings = [a | b | c for a in grid for b in zipped or [{}] for c in drawn]
        return [setting | seed for seed in seeds for setting in settings]

    def _draw(self, key: str, values: tuple[Any, ...], index: int) -> Any:
        """Draw number ``index`` of an option, which does not depend on the number of draws."""
        rng = random.Random(f"{self.draw_seed} {key} {index}")
        value = values[rng.randrange(len(values))]
        return Draw(value, rng.random()) if isinstance(value, Range) else value

    def with_options(self, fixed: Mapping[str, Any], **changes: Any) -> Sweep:
        """The sweep with other options, such as those of the command line.

        Args:
            fixed: options of all runs.
            **changes: other fields; those left out keep their value, without the options that are
                given anew, also if by another name, and without fixed options of a component that
                another one replaces.
        """
        axes = ("grid", "zip", "random")
        new = {*fixed, *(key for name in axes for key in changes.get(name, {}))}
        if changes.get("seeds"):
            new.add(SEED)
        new |= {other for pair in _SAME for key, other in (pair, pair[::-1]) if key in new}
        merged: dict[str, Any] = {
            name: {k: v for k, v in getattr(self, name).items() if k not in new}
            | changes.get(name, {})
            for name in axes
        }
        given = {k: (v,) for k, v in fixed.items()}
        given |= {k: v for name in axes for k, v in changes.get(name, {}).items()}
        # options of a component belong to it, and another one is chosen in its place
        gone = tuple(f"{k}." for k, v in given.items() if self.fixed.get(k, v[0]) not in v)
        kept = {k: v for k, v in self.fixed.items() if k not in new and not k.startswith(gone)}
        if changes.get("seeds") or SEED in fixed:
            kept.pop(SEED, None)
            merged["seeds"] = changes.get("seeds", ())
        if "draw_seed" in changes:
            merged["draw_seed"] = changes["draw_seed"]
        if changes.get("draws"):
            merged["draws"] = changes["draws"]
        elif not merged["random"]:
            merged["draws"], merged["search"] = 0, None
        if "search" in changes:
            merged["search"] = changes["search"]
        return replace(self, fixed=kept | dict(fixed), **merged)


def expand_values(values: Iterable[Any], integers: bool = True) -> tuple[Any, ...]:
    """Values with ranges written out: ``0:4`` is 0, 1, 2, 3, and ``log:0.01:1`` a ``Range``.

    Args:
        values: words of the command line or values of YAML.
        integers: whether ``A:B`` and ``A:B:STEP`` are integers from A to below B; else text.

    Raises:
        ValueError: if a range is empty, or one of numbers that are no integers.
    """
    found: list[Any] = []
    for value in values:
        text = value if isinstance(value, str) else ""
        if match := _RANGE.fullmatch(text):
            try:
                low, high = float(match["low"]), float(match["high"])
            except ValueError:
                raise ValueError(f"{text} is not a range: write log:LOW:HIGH in numbers") from None
            found.append(Range(match["scale"], low, high))
        elif integers and (match := _INTEGERS.fullmatch(text)):
            first, end, step = int(match[1]), int(match[2]), int(match[3] or 1)
            if first >= end or step < 1 or (end - first) // step > MAX_RUNS:
                raise ValueError(
                    f"{text} is not a range of at most {MAX_RUNS:,} integers: A:B is A, ..., B - 1"
                )
            found += range(first, end, step)
        elif integers and _NUMBERS.fullmatch(text):
            raise ValueError(
                f"{text} is no range of integers: list the values, or draw them from "
                f"uniform:{text} or log:{text} with --random N"
            )
        else:
            found.append(value)
    return tuple(found)


def option_key(name: str) -> str:
    """An option as a key: underscores for hyphens, and a component's name is the component."""
    return name.replace("-", "_").removesuffix(".name")


def flatten(plain: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """Nested options as dotted keys, in order."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        name = option_key(f"{parent}{key}")
        if isinstance(value, dict):
            inner = flatten(value, f"{name}.")
            repeated = flat.keys() & inner.keys()
            flat |= inner
        else:
            repeated = flat.keys() & {name}
            flat[name] = value
        if repeated:
            raise ValueError(f"{min(repeated)} is given twice")
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested options; the value of a component that has options is its name."""
    nested: dict[str, Any] = {}
    for key in sorted(flat, key=lambda name: name.count(".")):
        *parents, last = key.split(".")
        level = nested
        for name in parents:
            inner = level.get(name, {})
            level[name] = dict(inner) if isinstance(inner, dict) else {"name": inner}
            level = level[name]
        level[last] = flat[key]
    return nested
