"""The layout of Eval3D: a test folder of threestudio with opacity, normals and cameras.

References:
    Duggal et al., "Eval3D: Interpretable and Fine-grained Evaluation for 3D Generation", CVPR 2025.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.evaluation.benchmarks.base import Benchmark, prompt_folder_name
from limbeck.evaluation.benchmarks.threestudio import render_views, write_model
from limbeck.graphics.export.export import MeshExportOptions
from limbeck.graphics.export.png import encode_png
from limbeck.graphics.export.writers import write_atomic
from limbeck.runs.reopen import ReopenedRun


@dataclass(frozen=True)
class Eval3D(Benchmark):
    """Eval3D: ``METHOD/PROMPT@limbeck/save/itSTEP-test`` with 120 views, and the mesh beside it.

    Its readers sort file names, so these are padded. ``normal_world`` holds (n + 1) / 2 of the unit
    normals n in threestudio's axes, ``batch_data`` the camera of each view as a dict of tensors.
    """

    name = "eval3d"

    def folder(self, root: Path, prompt: str) -> Path:
        return root / self.method / f"{prompt_folder_name(prompt)}@limbeck"

    def write(self, run: ReopenedRun, particle: int, mesh: MeshExportOptions, folder: Path) -> None:
        write_model(run, particle, mesh, folder)
        test = folder / "save" / f"it{run.step}-test"
        for name in ("rgb_images", "opacity", "normal_world", "batch_data"):
            (test / name).mkdir(parents=True)
        for i, view in enumerate(render_views(run, particle)):
            normals = ((view.normal + 1) / 2).permute(1, 2, 0).contiguous().numpy()
            files = {
                f"rgb_images/{i:04d}.png": encode_png(view.image),
                f"opacity/{i:04d}.png": encode_png(view.alpha.expand(3, -1, -1)),
                f"normal_world/{i:04d}.npy": _encode_npy(normals),
                f"batch_data/{i:04d}.npy": _encode_npy(view.camera),
            }
            for name, data in files.items():
                write_atomic(test / name, data)


def _encode_npy(value: Any) -> bytes:
    """An array, or a dict as the reader's ``np.load(..., allow_pickle=True).item()`` wants it."""
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()
