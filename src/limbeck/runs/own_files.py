"""Files of the user that results depend on: own classes, images, meshes, captions, data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.config.discovery import field_name, is_own, name_of, options_of
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import Prior
from limbeck.priors.dataset_folder import dataset_files, dataset_folder
from limbeck.system.files import read_json_object
from limbeck.training.experiment import Experiment

ENVIRONMENT_FILE = "environment.json"  #: in a run folder: what the run was started with


def own_files(experiment: Experiment) -> dict[str, str]:
    """Return the SHA-256 of each file that is the user's own, by path.

    A data set as the model is one entry, that of its folder.
    """
    named = (*experiment.reference.files, *experiment.representation.input_files)
    files = sorted({*_own_files(experiment), *(path for path in named if path.is_file())})
    found = {str(file): _sha256(file) for file in files}
    model = experiment.model
    if isinstance(model, Model) and model.name.startswith("dataset:"):
        folder = dataset_folder(model.name)
        found |= {str(folder): _folder_sha256(folder)} if folder.is_dir() else {}
    return found


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


def _folder_sha256(folder: Path) -> str:
    """The SHA-256 of the names and contents of the images of a data set."""
    digest = hashlib.sha256()
    for path in dataset_files(folder):
        digest.update(f"{path.relative_to(folder)} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    found = path.stat()
    return _sha256_as_of(path, found.st_mtime_ns, found.st_size)


@cache  # the runs of a sweep have the same files
def _sha256_as_of(path: Path, modified: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
