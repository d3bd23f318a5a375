"""The file of the runs of a sweep that failed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from limbeck.sweeps.execution import RunOutcome
from limbeck.system.files import one_line, read_json_object, write_text

_FAILED_RUNS = "failed-runs.json"


def read_failed_runs(root: Path) -> dict[str, RunOutcome]:
    """Runs of a sweep that failed in the last session, by name."""
    path = root / _FAILED_RUNS
    if not path.exists():
        return {}
    try:
        return {name: RunOutcome(name, **value) for name, value in read_json_object(path).items()}
    except TypeError as error:
        raise ValueError(f"{path} is damaged ({one_line(error)}): delete it") from error


def write_failed_runs(
    root: Path, failed: dict[str, RunOutcome], known: dict[str, RunOutcome]
) -> None:
    """Replace the list of failed runs; final ones of other sweeps in the folder stay."""
    kept = {name: outcome for name, outcome in known.items() if outcome.is_final}
    plain = {}
    for name, outcome in (kept | failed).items():
        plain[name] = {key: value for key, value in asdict(outcome).items() if key != "name"}
    if not plain:
        (root / _FAILED_RUNS).unlink(missing_ok=True)
    else:
        text = json.dumps(plain, indent=1, ensure_ascii=False)
        write_text(root / _FAILED_RUNS, text + "\n")
