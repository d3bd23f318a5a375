"""A method that kills its own process, and what the runs of a sweep have left."""

from __future__ import annotations

import csv
from pathlib import Path

#: kills its own process after half of its steps unless the file "killed" says that it has done so
METHOD = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from limbeck.methods.sds import SDS

@dataclass(frozen=True)
class Mortal(SDS):
    kills: int = 0
    def __call__(self, prior, inputs, state):
        mark = Path({folder!r}) / "killed"
        deaths = mark.stat().st_size if mark.exists() else 0
        if deaths < self.kills and inputs.step == inputs.steps // 2:
            while not self.saved():  # checkpoints are written in the background
                time.sleep(0.01)
            mark.write_bytes(bytes(deaths + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(prior, inputs, state)
    def saved(self):
        paths = Path({folder!r}).glob("sweep/*/checkpoint.safetensors")
        runs = [(path.parent / "run.yaml").read_text() for path in paths]
        return any(f"kills: {{self.kills}}" in text for text in runs)
"""


def method_file(folder: Path) -> str:
    path = folder / "mortal.py"
    path.write_text(METHOD.format(folder=str(folder)), encoding="utf-8")
    return f"{path}:Mortal"


def files_of(root: Path) -> dict[Path, tuple[int, bytes]]:
    """Time of change and content of every file below a folder."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def table_of(root: Path) -> list[dict[str, str]]:
    with (root / "results.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
