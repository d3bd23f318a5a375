"""The layout of T3Bench: one mesh per prompt.

References:
    He et al., "T3Bench: Benchmarking Current Progress in Text-to-3D Generation", 2023, arXiv
    2310.02977.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from limbeck.evaluation.benchmarks.base import Benchmark, prompt_folder_name
from limbeck.evaluation.benchmarks.threestudio import write_model
from limbeck.graphics.export.export import MeshExportOptions
from limbeck.runs.reopen import ReopenedRun


@dataclass(frozen=True)
class T3Bench(Benchmark):
    """T3Bench: ``outputs_mesh_t3/METHOD_GROUP/PROMPT/save/itSTEP-export/model.obj``, z up.

    A prompt without a mesh is scored as black images there. Its scripts know six names of methods:
    add yours to the list of ``--method``.

    Attributes:
        group: single for one object, surr with surroundings, multi for several objects.
    """

    name = "t3bench"

    group: Literal["single", "surr", "multi"] = "single"

    def folder(self, root: Path, prompt: str) -> Path:
        method = root / "outputs_mesh_t3" / f"{self.method}_{self.group}"
        return method / prompt_folder_name(prompt)

    def write(self, run: ReopenedRun, particle: int, mesh: MeshExportOptions, folder: Path) -> None:
        write_model(run, particle, mesh, folder)
