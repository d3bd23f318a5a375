"""export particles of a 3D run as glb, obj, ply, or for a benchmark"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from limbeck.evaluation.benchmarks.base import Benchmark

if TYPE_CHECKING:
    from limbeck.graphics.export.export import ExportFormat, MeshExportOptions

SUFFIXES = (".glb", ".obj", ".ply")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and to which files.

    Attributes:
        runs: run folder; with --benchmark one or more.
        format: file format; by default the suffix of --out, or glb. Of Gaussian splats, ply holds
            the splats, and the others their surface.
        benchmark: write what a benchmark reads, into the folder --out: one result per prompt.
        particle: index of the particle from 0, prompt by prompt, or ``all``; with --benchmark the
            index among those of each prompt.
        out: file to write, or with all particles or --benchmark the folder; by default RUN/export.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    runs: tuple[Path, ...] = ()
    format: Literal["glb", "obj", "ply"] | None = None
    benchmark: Benchmark | None = None
    particle: int | Literal["all"] = 0
    out: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.benchmark is not None:
            return self._check_benchmark()
        if len(self.runs) != 1:
            raise ValueError(f"give one run folder, not {len(self.runs)}: limbeck export runs/NAME")
        if self.out is None or self.particle == "all":
            return
        if self.format is not None and self.out.suffix != f".{self.format}":
            raise ValueError(f"--out {self.out} must end in .{self.format}, as --format says")
        if self.out.suffix not in SUFFIXES:
            raise ValueError(f"--out {self.out} must end in .glb, .obj or .ply")

    def _check_benchmark(self) -> None:
        if not self.runs:
            raise ValueError("give one run folder or more: limbeck export runs/NAME ...")
        if self.out is None:
            raise ValueError("--benchmark needs --out FOLDER, that of the results of the benchmark")
        if self.format is not None:
            raise ValueError(f"--format {self.format}: --benchmark decides the files; give one")
        if self.particle == "all":
            raise ValueError("--particle all: a benchmark has one result per prompt; give an index")

    def particles(self, total: int) -> list[int]:
        """Indices of the particles to export.

        Raises:
            ValueError: if the run has only ``total`` particles.
        """
        if self.particle == "all":
            return list(range(total))
        if not 0 <= self.particle < total:
            raise ValueError(f"--particle must be 0 to {total - 1} or all, not {self.particle}")
        return [self.particle]

    @property
    def file_format(self) -> ExportFormat:
        """The format: that of --format, else of --out, else glb."""
        if self.format is None and self.out is not None and self.out.suffix in SUFFIXES:
            return self.out.suffix[1:]  # type: ignore[return-value]
        return self.format or "glb"

    def path(self, name: str) -> Path:
        """File to write, of the particle called ``name`` if there are several."""
        if self.particle != "all" and self.out is not None:
            return self.out
        return (self.out or self.runs[0] / "export") / f"{name}.{self.file_format}"


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck export``: write the files and print their paths."""
    from limbeck.config.command_line import parse
    from limbeck.graphics.export.export import MeshExportOptions, export_asset, export_paths

    about = (
        "Export particles of the RUN folder as files that Blender and other programs open, or of "
        "several with --benchmark as the folders that a benchmark reads."
    )
    sections = [(ExportOptions, None), (MeshExportOptions, None)]
    options, mesh_options = parse(sections, argv, "limbeck export", about, "runs")

    if options.benchmark is not None:
        return _export_benchmark(options, options.benchmark, mesh_options)

    from limbeck.cli.run_folder import check_new_file
    from limbeck.runs import reopen
    from limbeck.runs.find_runs import find_folder

    if options.out is not None and options.particle != "all":
        check_new_file(options.out)  # before the run is loaded
    options = replace(options, runs=(find_folder(options.runs[0]),))
    folder = reopen.best_stage(options.runs[0])
    experiment = reopen.read_experiment(folder)
    reopen.require_3d(folder, experiment)
    particles = options.particles(experiment.total)
    names = reopen.particle_names(experiment)
    for particle in particles:  # before the run is loaded
        check_new_file(options.path(names[particle]))
    run = reopen.reopen_run(folder, options.device)
    for particle in particles:
        asset = run.representation.asset(particle)
        path = options.path(names[particle])
        summary = export_asset(asset, path, options.file_format, mesh_options)
        print(f"particle {particle} after step {run.step}: {summary}", file=sys.stderr)
        for file in export_paths(path, options.file_format, asset):
            if file.exists():
                print(file)


def _export_benchmark(
    options: ExportOptions, benchmark: Benchmark, mesh_options: MeshExportOptions
) -> None:
    """Write one particle of each prompt of the runs, and print the folders."""
    from limbeck.runs import reopen
    from limbeck.runs.find_runs import find_folder

    assert options.out is not None and isinstance(options.particle, int)
    folders, targets = [reopen.best_stage(find_folder(run)) for run in options.runs], set()
    for folder in folders:  # before a run is loaded
        experiment = reopen.read_experiment(folder)
        reopen.require_3d(folder, experiment)
        if not 0 <= options.particle < experiment.particles:
            raise ValueError(
                f"{folder} has particles 0 to {experiment.particles - 1} of each prompt, not "
                f"{options.particle}"
            )
        for prompt in experiment.prompts:
            target = benchmark.check_new(options.out, prompt)
            if target in targets:
                raise ValueError(f"{folder}: another of the runs has the prompt {prompt!r} too")
            targets.add(target)
    for folder in folders:
        run = reopen.reopen_run(folder, options.device)
        for i in range(len(run.experiment.prompts)):
            particle = i * run.experiment.particles + options.particle
            print(benchmark.export(run, particle, mesh_options, options.out), flush=True)
