"""write particles of a run as glb, obj or ply files"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from limbeck.graphics.export.export import ExportFormat


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where to.

    runs: the run folder. format: glb, obj or ply; left out, as --out ends, else glb for surfaces and ply for splats. particle: its
    number from 0, prompt by prompt, or all. out: file to write, of all particles the folder; RUN/export if left out. device: auto,
    cpu, cuda, cuda:N or mps.
    """

    runs: tuple[Path, ...] = ()
    format: Literal["glb", "obj", "ply"] | None = None
    particle: int | Literal["all"] = 0
    out: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if len(self.runs) != 1:
            raise ValueError(
                f"one run folder is wanted, not {len(self.runs)}: limbeck export runs/NAME"
            )
        if (
            self.out is not None
            and self.particle != "all"
            and self.format is not None
            and self.out.suffix != f".{self.format}"
        ):
            raise ValueError(
                f"--out {self.out} does not end in .{self.format}, the format that is asked for"
            )
        if (
            self.out is not None
            and self.particle != "all"
            and self.out.suffix not in (".glb", ".obj", ".ply")
        ):
            raise ValueError(f"--out {self.out} must end in .glb, .obj or .ply")

    def chosen(self, total: int) -> list[int]:
        """The particles; ValueError where there are not so many."""
        if self.particle == "all":
            return list(range(total))
        if not 0 <= self.particle < total:
            raise ValueError(
                f"--particle {self.particle}: this run has {total}, counted from 0; or all"
            )
        return [self.particle]

    def kind(self, surface: bool) -> ExportFormat:
        """The format."""
        if self.format is not None:
            return self.format
        ending = self.out.suffix.removeprefix(".") if self.out is not None else ""
        return next(
            (kind for kind in ("glb", "obj", "ply") if kind == ending), "glb" if surface else "ply"
        )  # type: ignore[return-value]

    def path(self, name: str, kind: ExportFormat) -> Path:
        """The file of one particle."""
        if self.particle != "all" and self.out is not None:
            return self.out
        return (self.out or self.runs[0] / "export") / f"{name}.{kind}"


def main(argv: Sequence[str]) -> None:
    """``limbeck export``: particles as files for other programs."""
    from limbeck.config.command_line import parse
    from limbeck.graphics.export.export import MeshExportOptions, export_asset, export_paths
    from limbeck.graphics.geometry.assets import Surface

    about = "Write particles of the RUN folder as files that Blender and others open."
    what, shape = parse(
        [(ExportOptions, None), (MeshExportOptions, None)], argv, "limbeck export", about, "runs"
    )

    from limbeck.runs.reopen import (
        last_stage,
        particle_names,
        read_experiment,
        reopen_run,
        require_3d,
    )

    folder = last_stage(what.runs[0])
    experiment = read_experiment(folder)
    require_3d(folder, experiment)
    chosen = what.chosen(experiment.total)
    run = reopen_run(folder, what.device)
    for particle in chosen:
        name, solid = particle_names(experiment)[particle], run.representation.asset(particle)
        kind = what.kind(isinstance(solid, Surface))
        path = what.path(name, kind)
        print(
            f"particle {particle} after step {run.step}: {export_asset(solid, path, kind, shape)}",
            file=sys.stderr,
        )
        for file in export_paths(path, kind, solid):
            if file.exists():
                print(file)
