"""Notices of a run in its folder, for the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from limbeck.system.files import write_text

_FILE = "notices.json"


def write_notices(notices: Sequence[str], folder: Path) -> None:
    """Write the notices of a run into its folder; nothing if there are none."""
    if notices:
        write_text(folder / _FILE, json.dumps(notices, indent=1, ensure_ascii=False) + "\n")


def read_notices(folder: Path) -> list[str]:
    """The notices of a run or of samples."""
    path = folder / _FILE
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
