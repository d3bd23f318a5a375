"""The files eval.json in folders of runs, and what a new evaluation leaves out of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.system.files import read_json_object, write_text
from limbeck.system.notices import notify


def write_evaluation(folder: Path, report: Mapping[str, Any]) -> tuple[str, ...]:
    """Write eval.json into a folder atomically, in place of that of an earlier evaluation.

    Args:
        folder: folder of a run or of samples.
        report: content of the file.

    Returns:
        Metrics of the earlier evaluation that the new one lacks.
    """
    path = folder / "eval.json"
    known = _metrics(report)
    dropped = tuple(name for name in _earlier_metrics(path) if name not in known)
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return dropped


def notify_dropped(dropped: Mapping[Path, tuple[str, ...]]) -> None:
    """Say in one notice which metrics of earlier evaluations were replaced by none.

    Args:
        dropped: what ``write_evaluation`` returned, by folder.
    """
    folders = [folder for folder, names in dropped.items() if names]
    if not folders:
        return
    names = dict.fromkeys(name for folder in folders for name in dropped[folder])
    more = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
    notify(
        f"{folders[0] / 'eval.json'}{more} had {', '.join(names)}, which this command does not "
        "compute, and has them no longer: evaluate with the options of both commands to have all"
    )


def _metrics(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metrics of a report: of images under ``metrics``, of 3D runs under ``mean``."""
    found = report.get("metrics", report.get("mean", {}))
    return found if isinstance(found, Mapping) else {}


def _earlier_metrics(path: Path) -> Mapping[str, Any]:
    """The metrics of a file that is replaced; none if it is absent or damaged."""
    try:
        return _metrics(read_json_object(path))
    except (ValueError, OSError):
        return {}
