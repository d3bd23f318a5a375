"""Output folders of commands: default names, refusal to overwrite, resume hint."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.system.folder_lock import refuse_folder_in_use
from limbeck.system.interrupt import exit_code

if TYPE_CHECKING:
    from limbeck.training.experiment import Experiment

INCOMPLETE = 1  #: exit code of a run that lacks an image, film, report or other product


@dataclass(frozen=True)
class OutputOptions:
    """Where results are computed and written.

    Attributes:
        out: folder to write; by default it is named after what it contains.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    out: Path | None = None
    device: str = "auto"


@contextmanager
def resume_hint(command: str) -> Iterator[None]:
    """After Ctrl-C, SIGTERM or SIGHUP inside, print the command that resumes and exit."""
    try:
        yield
    except KeyboardInterrupt as stop:
        print(f"\nlimbeck: stopped. To resume: {command}", file=sys.stderr)
        raise SystemExit(exit_code(stop)) from None


def exit_if_incomplete(folder: Path) -> None:
    """Exit with code 1 if a product of a run in or below a folder could not be written."""
    from limbeck.runs.final_products import has_failures

    if has_failures(folder):
        raise SystemExit(INCOMPLETE)


def check_distinct(folders: Sequence[Path]) -> None:
    """Raise ValueError if a folder is given twice, under one name or two."""
    names: dict[Path, Path] = {}
    for folder in folders:
        first = names.setdefault(folder.resolve(), folder)
        if first is not folder:
            other = "" if str(first) == str(folder) else f", also as {first}"
            raise ValueError(f"{folder} is given twice{other}: name each folder once")


def without_own_files(given: Sequence[Path]) -> list[Path]:
    """Leave out what ``runs/*`` names beside runs: a page of a comparison, and files of a sweep."""
    from limbeck.sweeps.sweep_file import LOGS, is_sweep_folder

    sweeps = {path.parent for path in given if is_sweep_folder(path.parent)}
    return [
        path
        for path in given
        if not (path.name == "comparison.html" and path.is_file())
        and not (path.parent in sweeps and (path.is_file() or path.name == LOGS))
    ]


def check_run_folder(folder: Path, experiment: Experiment) -> None:
    """Raise ValueError unless ``folder`` is new, empty, or holds a run that goes on as it."""
    from limbeck.runs.folder_state import foreign_files, refuse_other_experiment

    refuse_folder_in_use(folder)
    if (folder / "run.yaml").is_file():
        refuse_other_experiment(folder, experiment)
    elif foreign_files(folder) or not folder.is_dir():
        check_new_folder(folder)


def check_new_file(path: Path) -> None:
    """Raise ValueError unless ``path`` is new and its folder can be created and written."""
    if path.exists():
        raise ValueError(f"{path} exists and is not overwritten; choose another file with --out")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        reason = "no permission in" if parent.is_dir() else "not a folder:"
        raise ValueError(f"{path} cannot be written: {reason} {parent}; choose another with --out")


def check_new_folder(folder: Path) -> None:
    """Raise ValueError unless ``folder`` is empty or can be created, and can be written."""
    cure = "name another folder with --out"
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds files already, and nothing is overwritten; {cure}")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise ValueError(f"{folder} cannot be created: {parent} is a file; {cure}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} cannot be written: no permission in {parent}; {cure}")
