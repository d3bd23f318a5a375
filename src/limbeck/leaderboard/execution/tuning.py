"""The choice of one setting for each row, and the record of all that were tried."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from limbeck.system.files import read_json_object, write_text

Setting = TypeVar("Setting", bound=Any)


def check_candidates(board: Any, options: Sequence[str]) -> None:
    """Check the settings that are tried.

    Args:
        board: options of a leaderboard.
        options: those that hold candidates.

    Raises:
        ValueError: if one has no candidate, or one that is not positive.
    """
    for name in options:
        values = getattr(board, name)
        if not values or any(value <= 0 for value in values):
            raise ValueError(f"{name} must be positive numbers, at least one, not {values}")


def choose_settings(
    objectives: Mapping[str, Mapping[Setting, float]], out: Path
) -> dict[str, Setting]:
    """The setting of each row with the largest objective; all are written to tuning.json.

    Args:
        objectives: objective by row and setting, which is a dataclass.
        out: folder of the leaderboard.
    """
    chosen = {name: max(own, key=lambda setting: own[setting]) for name, own in objectives.items()}
    report = {
        name: [
            asdict(setting) | {"objective": value, "chosen": setting == chosen[name]}
            for setting, value in own.items()
        ]
        for name, own in objectives.items()
    }
    write_tuning(report, out)
    return chosen


def write_tuning(report: Mapping[str, Any], out: Path) -> None:
    """Write tuning.json; rows of it that are not in the report, of other commands, are kept.

    Args:
        report: every setting that was tried, by row.
        out: folder of the leaderboard.
    """
    path = out / "tuning.json"
    held = read_json_object(path) if path.exists() else {}
    write_text(path, json.dumps(held | dict(report), indent=1))


def rounded_lr(lr: float) -> float:
    """A learning rate as tables show it: with four decimals, or two significant digits.

    A small one would be 0 with four decimals.
    """
    return float(round(lr, max(4, 1 - math.floor(math.log10(lr)))))
