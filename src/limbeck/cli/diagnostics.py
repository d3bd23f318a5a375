"""What this installation has and lacks, in one table."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from limbeck import __version__
from limbeck.system.environment import package_version

REQUIRED = ("torch", "diffusers", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "pillow", "tyro", "PyYAML",
            "rich", "Jinja2", "matplotlib", "jaxtyping")  # fmt: skip
OPTIONAL = {
    "numba": "renders the pictures of the world for train-world",
    "tensorboard": "mirrors a run into TensorBoard",
    "wandb": "mirrors a run into Weights & Biases",
    "peft": "loads the critic of a run as LoRA in diffusers",
    "xatlas": "unwraps surfaces for the textures of export",
    "imageio": "films of turntables, with av",
    "av": "films of turntables, with imageio",
    "viser": "shows solids in the browser",
    "gsplat": "draws Gaussians on CUDA, 1.5 or later",
}

State = Literal["ok", "absent", "warning"]


@dataclass(frozen=True)
class Finding:
    """One row: what was looked at, what was found, whether that is well."""

    what: str
    found: str
    state: State = "ok"


def machine() -> Iterator[Finding]:
    """Python, system, devices, threads."""
    yield Finding("limbeck", __version__)
    yield Finding("Python", f"{platform.python_version()} at {sys.executable}")
    yield Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        yield Finding(f"device cuda:{i}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("device mps", "Apple GPU")
    yield Finding(
        "device cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    )


def packages() -> Iterator[Finding]:
    """Required packages and their versions, then the optional ones and what each is for."""
    for name in REQUIRED:
        found = package_version(name)
        yield Finding(
            name, found or "missing: pip install limbeck brings it", "ok" if found else "warning"
        )
    for name, purpose in OPTIONAL.items():
        found = package_version(name)
        yield Finding(
            name,
            f"{found}: {purpose}" if found else f"absent, optional: {purpose}",
            "ok" if found else "absent",
        )
    yield torchvision()


def torchvision() -> Finding:
    """Limbeck does without it, but transformers imports it where it is found, and fails on one made for another torch."""
    if find_spec("torchvision") is None:
        return Finding("torchvision", "absent, not needed", "absent")
    try:
        module = importlib.import_module("torchvision")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        cure = f"uninstall it, or install the one made for torch {torch.__version__}"
        return Finding("torchvision", f"broken ({reason}): {cure}", "warning")
    return Finding("torchvision", f"{module.__version__}: can be imported, not needed")


def weights() -> Finding:
    """The files of the embedded model."""
    files = sorted((Path(__file__).parents[1] / "world").rglob("*.safetensors"))
    if not files:
        return Finding(
            "embedded model",
            "no weights: --model world will not load; train it with limbeck train-world",
            "warning",
        )
    size = sum(file.stat().st_size for file in files) / 1e6
    return Finding(
        "embedded model",
        f"{len(files)} files, {size:.1f} MB in {Path(__file__).parents[1] / 'world'}",
    )


def examine(console: Console | None = None) -> list[Finding]:
    """Print every finding and return them. The state stands in words, so that it reads without colour."""
    findings = [*machine(), *packages(), weights()]
    table = Table(
        "state",
        "what",
        "found",
        title="limbeck doctor",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    colours = {"ok": "green", "absent": "dim", "warning": "bold red"}
    for row in findings:
        table.add_row(f"[{colours[row.state]}]{row.state}[/]", row.what, row.found)
    (console or Console()).print(table)
    return findings
