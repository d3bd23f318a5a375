"""Where what the command line makes goes: folders that are new, or hold the very same thing already; and how to go on with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.training.experiment import Experiment

STOPPED = 130  #: exit code after Ctrl-C


@dataclass(frozen=True)
class Place:
    """Where something new goes.

    out: folder to write, named after what it holds if left out. device: auto, cpu, cuda, cuda:N or mps.
    """

    out: Path | None = None
    device: str = "auto"


@contextmanager
def going_on(command: str) -> Iterator[None]:
    """Ctrl-C inside ends with exit code 130 and the command that goes on."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nlimbeck: stopped. To go on: {command}", file=sys.stderr)
        raise SystemExit(STOPPED) from None


def default_folder(experiment: Experiment) -> Path:
    """``runs/prompt-method-fingerprint``: the same for the same experiment, another for any other."""
    from limbeck.config.discovery import component_name
    from limbeck.config.yaml import fingerprint, slug

    method = component_name(type(experiment.method))
    return Path("runs") / f"{slug(experiment.prompts[0])}-{method}-{fingerprint(experiment)}"


def check_folder(folder: Path, experiment: Experiment) -> None:
    """Raise ValueError unless ``folder`` is new, empty, or holds a run of the very same experiment."""
    from limbeck.runs.recorder import refuse_other

    if (folder / "run.yaml").is_file():
        refuse_other(folder, experiment)
    else:
        check_new(folder)


def check_new(folder: Path) -> None:
    """Raise ValueError unless ``folder`` can be made or is empty, and can be written."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"{folder} holds files already and nothing is overwritten; name a new folder with --out"
        )
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not above.is_dir():
        raise ValueError(
            f"{folder} cannot be made: {above} is a file; name a new folder with --out"
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(
            f"{folder} cannot be written: no permission in {above}; name another folder with --out"
        )
