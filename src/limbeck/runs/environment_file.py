"""environment.json: what a run was started with, and what was different when it was continued."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limbeck.priors.loading import pick_precision
from limbeck.runs.folder_state import keeps_steps
from limbeck.runs.own_files import ENVIRONMENT_FILE, changed_files, own_files
from limbeck.system.environment import describe_environment
from limbeck.system.files import read_json_object, write_text
from limbeck.system.notices import notify
from limbeck.training.experiment import Experiment

_COMPARED = ("python", "device", "dtype", "cuda", "tf32")  #: what results depend on
_NONE = "none"


def record_environment(folder: Path, experiment: Experiment, device: str, step: int) -> list[str]:
    """Write environment.json of a run that begins, or say what differs where one is continued.

    Args:
        folder: run folder.
        experiment: what is run.
        device: the device of its model.
        step: number of steps done.

    Returns:
        The differences from the environment at the start, which were said; they are kept in the
        file, too.

    Raises:
        ValueError: if the file in the folder is not JSON.
    """
    path, now = folder / ENVIRONMENT_FILE, _environment(experiment, device)
    if not path.exists() or not keeps_steps(folder):
        write_text(path, json.dumps(now, indent=1) + "\n")
        return []
    start = read_json_object(path)
    differences = list(_differences(start, now))
    if not differences:
        return []
    text = f"{folder} continues after step {step} in another environment than at its start: "
    text += f"{'; '.join(differences)}. The result may differ from that of one session"
    notify(text)
    sessions = start.get("continued")
    continued = [*sessions] if isinstance(sessions, list) else []
    entry = {"step": step, "differences": differences}
    if entry not in continued:
        write_text(path, json.dumps(start | {"continued": [*continued, entry]}, indent=1) + "\n")
    return [text]


def _environment(experiment: Experiment, device: str) -> dict[str, Any]:
    dtype = str(pick_precision(experiment.precision, device)).removeprefix("torch.")
    return describe_environment(device) | {"dtype": dtype, "own_files": own_files(experiment)}


def _differences(start: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What differs between two environments; what the older one does not record is left out."""
    old_versions, versions = start.get("versions"), now["versions"]
    if isinstance(old_versions, dict):
        for package, version in versions.items():
            old = old_versions.get(package, version)
            if old != version:
                yield f"{package} {old or _NONE} -> {version or _NONE}"
    for name in _COMPARED:
        old = start.get(name, now[name])
        if old != now[name]:
            old_text, new_text = (_NONE if value is None else value for value in (old, now[name]))
            yield f"{name} {old_text} -> {new_text}"
    for file in changed_files(start, now["own_files"]):
        yield f"{file} has changed"
