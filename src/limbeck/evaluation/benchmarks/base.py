"""The layout of a benchmark, and the export of a particle into it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from limbeck.graphics.export.export import MeshExportOptions
from limbeck.runs.reopen import ReopenedRun
from limbeck.system.files import creating_folder


@dataclass(frozen=True)
class Benchmark(ABC):
    """Options of the layout of a benchmark.

    Attributes:
        method: name of the method in the benchmark, a folder name.
    """

    method: str = "limbeck"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*", self.method, re.ASCII):
            raise ValueError(
                f"method {self.method!r} must be of letters, digits, '_', '-' and '.': it becomes "
                "a folder name that the benchmark's scripts pass to a shell"
            )

    @abstractmethod
    def folder(self, root: Path, prompt: str) -> Path:
        """Folder of the result of a prompt.

        Args:
            root: folder of the benchmark's results.
            prompt: the prompt.

        Raises:
            ValueError: if the benchmark cannot have this prompt.
        """

    @abstractmethod
    def write(self, run: ReopenedRun, particle: int, mesh: MeshExportOptions, folder: Path) -> None:
        """Write the files of a particle.

        Args:
            run: the run.
            particle: index of the particle.
            mesh: options of the mesh.
            folder: empty folder that will become ``folder(root, prompt)``.

        Raises:
            ValueError: if the representation lacks what the benchmark reads.
        """

    def check_new(self, root: Path, prompt: str) -> Path:
        """The folder of a prompt, which must not exist.

        Raises:
            ValueError: if it exists.
        """
        folder = self.folder(root, prompt)
        if folder.exists():
            raise ValueError(
                f"{folder} exists and is not overwritten: choose another folder with --out, or "
                "another --benchmark.method"
            )
        return folder

    def export(self, run: ReopenedRun, particle: int, mesh: MeshExportOptions, root: Path) -> Path:
        """Write a particle; its folder appears when all files are in it.

        Args:
            run: the run.
            particle: index of the particle.
            mesh: options of the mesh.
            root: folder of the benchmark's results.

        Returns:
            The folder.

        Raises:
            ValueError: if the folder exists, or the particle cannot be exported.
        """
        prompt = run.experiment.prompts[particle // run.experiment.particles]
        folder = self.check_new(root, prompt)
        with creating_folder(folder) as part:  # the readers skip it, should it stay after a kill
            self.write(run, particle, mesh, part)
        return folder


def prompt_folder_name(prompt: str) -> str:
    """Name of the folder of a prompt in threestudio: spaces become underscores.

    Raises:
        ValueError: if the prompt cannot be part of a path.
    """
    name = prompt.strip().replace(" ", "_")
    if "/" in name or "\\" in name or len(name.encode()) > 200:
        raise ValueError(
            f"prompt {prompt[:60]!r} cannot be a folder name, as the benchmark wants: it has a "
            "slash or more than 200 bytes"
        )
    return name
