"""Numbers of a configuration that change over the run, such as ``"linear 100 7.5"``."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple, Self, cast

_FLOAT_MAX = 3.4028234e38  #: largest float32
_EXAMPLES = "'linear 100 7.5' or '15 until .5 then 7.5'"

#: How a value goes from a to b while u goes from 0 to 1.
_CURVES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda a, b, u: a + (b - a) * u,
    "cosine": lambda a, b, u: a + (b - a) * (1 - math.cos(math.pi * u)) / 2,
    "exponential": lambda a, b, u: a * (b / a) ** u,
}


class _Piece(NamedTuple):
    """A part of a schedule: from the end of the one before to ``end``, in progress of the run."""

    curve: str  #: empty for a constant
    first: float
    last: float
    end: float

    def __str__(self) -> str:
        if not self.curve:
            return _short(self.first)
        return f"{self.curve} {_short(self.first)} {_short(self.last)}"


class ScheduledNumber(float):
    """A number that is a function of the progress of the run alone; as a float its first value.

    Args:
        text: ``linear A B``, ``cosine A B`` or ``exponential A B`` from A at the first step to B at
            the last one; or parts, numbers or curves, as in ``15 until .5 then linear 7.5 1``.

    Attributes:
        values: the values at the ends of all parts.

    Raises:
        ValueError: if the text is no schedule; the message says what is.
    """

    _pieces: tuple[_Piece, ...]

    def __new__(cls, text: str) -> Self:
        pieces = _parse(text)
        number = super().__new__(cls, pieces[0].first)
        number._pieces = pieces
        return number

    def __getnewargs__(self) -> tuple[str]:  # type: ignore[override]  # made from its text
        return (str(self),)

    def __str__(self) -> str:
        parts = [f"{piece} until {_short(piece.end)}" for piece in self._pieces[:-1]]
        return " then ".join([*parts, str(self._pieces[-1])])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScheduledNumber) and self._pieces == other._pieces

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._pieces)

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(value for piece in self._pieces for value in (piece.first, piece.last))

    @property
    def turns(self) -> tuple[float, ...]:
        """Progress of the run at the ends of all parts, on both sides of each."""
        inner = [piece.end for piece in self._pieces[:-1]]
        return (0.0, *(p for end in inner for p in (math.nextafter(end, 0), end)), 1.0)

    def at(self, progress: float) -> float:
        """The value at a progress of the run in [0, 1]; a part begins where the last one ends."""
        start = 0.0
        for piece in self._pieces:
            if progress < piece.end or piece.end == 1:
                break
            start = piece.end
        if not piece.curve:
            return piece.first
        fraction = (progress - start) / (piece.end - start)
        return _CURVES[piece.curve](piece.first, piece.last, fraction)


def _short(value: float) -> str:
    return repr(value).removesuffix(".0")


def looks_scheduled(value: object) -> bool:
    """Whether the value of an option is meant as a schedule, rightly written or not."""
    words = value.split() if isinstance(value, str) else []
    return bool(words) and (words[0] in _CURVES or len(words) > 1)


def _parse(text: str) -> tuple[_Piece, ...]:
    pieces: list[_Piece] = []
    parts = re.split(r"\s+then\s+", text.strip())
    for number, part in enumerate(parts):
        words, start = part.split(), pieces[-1].end if pieces else 0.0
        end = 1.0
        if number < len(parts) - 1:
            if len(words) < 3 or words[-2] != "until":
                raise ValueError(
                    f"a part of a schedule ends with 'until FRACTION', not {part!r}, in {text!r}"
                )
            end, words = _number(words[-1], text), words[:-2]
            if not start < end < 1:
                raise ValueError(
                    f"the ends of the parts of a schedule rise between 0 and 1, in {text!r}"
                )
        elif "until" in words:
            raise ValueError(
                f"the last part of a schedule has no 'until', as in {_EXAMPLES}, not {text!r}"
            )
        curve = words.pop(0) if words and words[0] in _CURVES else ""
        if len(words) != (2 if curve else 1):
            needs = f"a schedule has numbers or curves, as in {_EXAMPLES}"
            if curve:
                needs = f"{curve} takes two numbers, as in '{curve} 100 7.5'"
            raise ValueError(f"{needs} (with the quotes), not {part!r}")
        values = [_number(word, text) for word in words]
        if curve == "exponential" and not values[0] * values[1] > 0:
            raise ValueError(f"exponential takes two numbers of one sign, not {part!r}")
        pieces.append(_Piece(curve, values[0], values[-1], end))
    if len(pieces) == 1 and not pieces[0].curve:
        raise ValueError(f"{text!r} is a number and no schedule such as {_EXAMPLES}")
    return tuple(pieces)


def _number(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        raise ValueError(f"{word!r} in {text!r} is no number; schedules are {_EXAMPLES}") from None
    if not abs(value) <= _FLOAT_MAX:
        raise ValueError(f"{word!r} in {text!r} is no finite number")
    return value


class Schedulable:
    """A frozen dataclass whose options of type float may be schedules over the run."""

    @property
    def scheduled(self) -> dict[str, ScheduledNumber]:
        """The options that are schedules, by name of their field."""
        found = {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}
        return {name: v for name, v in found.items() if isinstance(v, ScheduledNumber)}

    def values_at(self, progress: float) -> dict[str, float]:
        """The values of the options that are schedules, at a progress of the run in [0, 1]."""
        return {name: number.at(progress) for name, number in self.scheduled.items()}

    def at(self, progress: float) -> Self:
        """These options with the numbers of a progress of the run; itself without schedules."""
        values = self.values_at(progress)
        if not values:
            return self
        # not replace(): ranges are checked at the turns, and an equality met between them is none
        current = copy.copy(self)
        vars(current).update(values)
        return current

    def settings(self) -> tuple[Self, ...]:
        """These options at the turns of their schedules, each checked as if it were constant.

        Raises:
            ValueError: if one of them is refused.
        """
        turns = sorted({turn for number in self.scheduled.values() for turn in number.turns})
        return tuple(replace(cast(Any, self), **self.values_at(turn)) for turn in turns) or (self,)
