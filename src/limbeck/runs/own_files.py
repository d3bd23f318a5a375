"""Files of the user that results depend on: own classes and the images of a reference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from limbeck.config.discovery import field_name, is_own, name_of, options_of
from limbeck.diffusion.prior import Prior
from limbeck.system.files import read_json_object
from limbeck.training.experiment import Experiment

ENVIRONMENT_FILE = "environment.json"  #: in a run folder: what the run was started with


def own_files(experiment: Experiment) -> dict[str, str]:
    """Return the SHA-256 of each file of the user's own classes and reference, by path."""
    images = [path for path in experiment.reference.files if path.is_file()]
    files = sorted({*_own_files(experiment), *images})
    return {str(file): _sha256(file) for file in files}


def changed_files(environment: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """Return the own files that are not what they were.

    Args:
        environment: content of the environment.json of a run.
        now: what ``own_files`` returns now.
    """
    before = environment.get("own_files")
    if not isinstance(before, dict):
        return []
    return [file for file, digest in now.items() if before.get(file, digest) != digest]


def changed_own_files(folder: Path, experiment: Experiment) -> list[str]:
    """Return the own files of an experiment that have changed since a run was started.

    Args:
        folder: run folder.
        experiment: its experiment.
    """
    path, now = folder / ENVIRONMENT_FILE, own_files(experiment)
    return changed_files(read_json_object(path), now) if now and path.exists() else []


def _own_files(config: Any) -> Iterator[Path]:
    """The files of the user's own classes among the options of a configuration."""
    if isinstance(config, tuple):
        for value in config:
            yield from _own_files(value)
        return
    if not (is_dataclass(config) or isinstance(config, Prior)):
        return
    if is_own(type(config)):
        path = Path(name_of(type(config)).rpartition(":")[0])
        if path.is_file():  # a class made in a notebook has none
            yield path
    for name in options_of(type(config)) if is_dataclass(config) else ():
        yield from _own_files(getattr(config, field_name(name)))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
