"""3D snapshots of a run for the viewer: assets/step-STEP-PROMPT-PARTICLE.ply."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.graphics.export.export import DEFAULT_MAX_FACES, with_vertex_colors
from limbeck.graphics.export.mapped_mesh import world_snapshot
from limbeck.graphics.export.mesh_cleanup import TexturedMesh, decimate, validate_surface
from limbeck.graphics.export.writers import (
    decode_ply,
    encode_ply,
    write_atomic,
    write_splats_atomic,
)
from limbeck.graphics.geometry.assets import MappedMesh, Splats
from limbeck.representations.base import Representation
from limbeck.runs.images import particle_stems
from limbeck.system.async_copy import AsyncCopies
from limbeck.training.experiment import Experiment

_FILE_NAME = re.compile(r"step-(\d+)-(\d+-\d+)\.ply")


def call_now(job: Callable[[], None]) -> None:
    """Run a job immediately."""
    job()


@torch.no_grad()
def take_snapshot(
    representation: Representation, particle: int, max_faces: int = 0
) -> TexturedMesh | Splats:
    """Current 3D asset of a particle: splats, or a mesh with vertex colors.

    Args:
        representation: the particles.
        particle: index of the particle.
        max_faces: decimate a mesh to at most this many faces. 0: keep all.

    Raises:
        ValueError: if there is no surface; the message says why.
    """
    asset = representation.asset(particle)
    if isinstance(asset, Splats):
        return asset
    if isinstance(asset, MappedMesh):
        return world_snapshot(asset)
    surface = validate_surface(asset)
    return with_vertex_colors(decimate(surface, max_faces) if max_faces else surface)


@torch.no_grad()
def save_snapshot(
    folder: Path,
    experiment: Experiment,
    representation: Representation,
    step: int,
    submit: Callable[[Callable[[], None]], object] = call_now,
) -> dict[str, TexturedMesh | Splats]:
    """Write the current 3D asset of every particle; does nothing for 2D particles.

    A particle without a surface leaves no file. The mesh after the last step is decimated as an
    export is; earlier ones, which show progress, are not, since that takes seconds.

    Args:
        folder: run folder.
        experiment: the run's experiment.
        representation: the particles.
        step: number of steps taken.
        submit: called with each write job, for instance ``BackgroundWriter.submit``.

    Returns:
        The assets that are written, by particle ``PROMPT-PARTICLE``.
    """
    assets: dict[str, TexturedMesh | Splats] = {}
    if isinstance(experiment.camera_sampler, NoCamera):
        return assets
    max_faces = DEFAULT_MAX_FACES if step >= experiment.steps else 0
    (folder / "assets").mkdir(exist_ok=True)
    for particle, stem in enumerate(particle_stems(experiment.total, experiment.particles)):
        path = folder / "assets" / f"step-{step:05d}-{stem}.ply"
        try:
            asset = take_snapshot(representation, particle, max_faces)
        except ValueError:  # no surface yet, as at the start of a NeRF
            continue
        assets[stem] = asset
        tensors = {k: v for k, v in vars(asset).items() if isinstance(v, Tensor)}
        submit(partial(_write, path, type(asset), AsyncCopies(tensors)))
    return assets


def _write(path: Path, kind: type[TexturedMesh | Splats], copies: AsyncCopies) -> None:
    fields: dict[str, Any] = {**copies.to_cpu()}
    asset = kind(**fields)
    if isinstance(asset, Splats):
        write_splats_atomic(path, asset)
    else:
        write_atomic(path, encode_ply(asset))


@dataclass(frozen=True)
class SnapshotFolder:
    """The 3D snapshots of a run folder.

    Attributes:
        folder: run folder.
    """

    folder: Path

    def steps(self) -> dict[int, dict[str, Path]]:
        """Files by step, in ascending order, and by particle ``PROMPT-PARTICLE``."""
        files: dict[int, dict[str, Path]] = {}
        for path in sorted((self.folder / "assets").glob("step-*.ply")):
            if match := _FILE_NAME.fullmatch(path.name):
                files.setdefault(int(match[1]), {})[match[2]] = path
        return dict(sorted(files.items()))


def read_snapshot(path: Path) -> TexturedMesh | Splats:
    """Read a snapshot.

    Raises:
        ValueError: if the file is not a snapshot.
    """
    data = path.read_bytes()
    if b"element face " in data[: data.find(b"end_header")]:
        return decode_ply(data)
    from limbeck.graphics.geometry.gaussian_ply import read_gaussian_ply

    return read_gaussian_ply(path)
