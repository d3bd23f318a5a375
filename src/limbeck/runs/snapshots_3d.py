"""Solids on the way: solids/step-STEP-PROMPT-PARTICLE.ply in a run folder, for a viewer that needs no model to show them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from limbeck.system.async_copy import AsyncCopies
from limbeck.training.experiment import Experiment
from limbeck.graphics.export.export import at_vertices
from limbeck.graphics.export.writers import ply, put_splats, read_ply, replaced
from limbeck.graphics.export.mesh_cleanup import TexturedMesh, checked
from limbeck.runs.images import final_names
from limbeck.representations.base import Representation
from limbeck.graphics.geometry.solids import Splats
from limbeck.graphics.cameras.views import NoCamera

NAME = re.compile(r"step-(\d+)-(\d+-\d+)\.ply")


def run_now(job: Callable[[], None]) -> None:
    """Have it done at once."""
    job()


@torch.no_grad()
def take_snapshot(representation: Representation, particle: int) -> TexturedMesh | Splats:
    """A particle as it is now, with colours at its vertices; ValueError with the cause where it has nothing to show."""
    solid = representation.asset(particle)
    return solid if isinstance(solid, Splats) else at_vertices(checked(solid))


@torch.no_grad()
def save_snapshot(
    folder: Path,
    experiment: Experiment,
    representation: Representation,
    step: int,
    put: Callable[[Callable[[], None]], object] = run_now,
) -> None:
    """Every particle as it is now, of what has sides; one that has nothing to show yet leaves no file. ``put`` has it written."""
    if isinstance(experiment.camera_sampler, NoCamera):
        return
    (folder / "solids").mkdir(exist_ok=True)
    for particle, name in enumerate(final_names(experiment.total, experiment.particles)):
        path = folder / "solids" / f"step-{step:05d}-{name}.ply"
        try:
            shown = take_snapshot(representation, particle)
        except ValueError:  # no surface yet, as at the start of a field
            continue
        put(partial(_write, path, type(shown), AsyncCopies({k: v for k, v in vars(shown).items() if v is not None})))


def _write(path: Path, kind: type[TexturedMesh | Splats], copies: AsyncCopies) -> None:
    shown = kind(**copies.fetched())
    if isinstance(shown, Splats):
        put_splats(path, shown)
    else:
        replaced(path, ply(shown))


@dataclass(frozen=True)
class SnapshotFolder:
    """The snapshots of a run folder."""

    folder: Path

    def steps(self) -> dict[int, dict[str, Path]]:
        """Steps in order, and of each the file of every particle by its name."""
        found: dict[int, dict[str, Path]] = {}
        for path in sorted((self.folder / "solids").glob("step-*.ply")):
            if match := NAME.fullmatch(path.name):
                found.setdefault(int(match[1]), {})[match[2]] = path
        return dict(sorted(found.items()))


def read_snapshot(path: Path) -> TexturedMesh | Splats:
    """A snapshot; ValueError where it is none."""
    data = path.read_bytes()
    if b"element face " in data[: data.find(b"end_header")]:
        return read_ply(data)
    from limbeck.graphics.geometry.ply import read_ply as read_splats

    return read_splats(path)
