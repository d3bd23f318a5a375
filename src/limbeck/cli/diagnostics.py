"""The state of an installation: machine, packages and embedded model."""

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

REQUIRED = (
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "accelerate",
    "safetensors",
    "numpy",
    "pillow",
    "docstring_parser",
    "PyYAML",
    "rich",
    "Jinja2",
    "matplotlib",
    "jaxtyping",
)
OPTIONAL = {  #: and what needs each
    "numba": "renders of the world: bench, eval --reference world, true colors of 3D runs",
    "tensorboard": "--logger tensorboard",
    "wandb": "--logger wandb",
    "optuna": "limbeck sweep --optuna",
    "ray": "limbeck sweep --ray",
    "submitit": "limbeck sweep --slurm",
    "peft": "loading the critic of a run as LoRA in diffusers",
    "trimesh": "--representation mesh, a mesh of one's own",
    "xatlas": "UV atlases for the textures of export",
    "av": "turntable videos",
    "viser": "the viewer",
    "nicegui": "limbeck ui",
    "gsplat": "rendering Gaussians on CUDA, 1.5 or later",
}

State = Literal["ok", "absent", "warning"]
_COLORS: dict[State, str] = {"ok": "green", "absent": "dim", "warning": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        subject: what was checked.
        result: what was found.
        state: whether that is fine; ``absent`` is fine too.
    """

    subject: str
    result: str
    state: State = "ok"


def check_machine() -> Iterator[Finding]:
    """Python, operating system, devices and threads."""
    yield Finding("limbeck", __version__)
    yield Finding("Python", f"{platform.python_version()} at {sys.executable}")
    yield Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        yield Finding(f"device cuda:{i}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("device mps", "Apple GPU")
    threads = torch.get_num_threads()
    yield Finding("device cpu", f"{os.cpu_count()} cores, torch uses {threads} threads")


def check_packages() -> Iterator[Finding]:
    """Versions of the required packages, then of the optional ones and what each is for."""
    for name in REQUIRED:
        version = package_version(name)
        if version:
            yield Finding(name, version)
        else:
            yield Finding(name, "missing: pip install limbeck installs it", "warning")
    for name, purpose in OPTIONAL.items():
        version = package_version(name)
        if version:
            yield Finding(name, f"{version}: {purpose}")
        else:
            yield Finding(name, f"absent, optional: {purpose}", "absent")
    yield check_torchvision()


def check_torchvision() -> Finding:
    """Whether torchvision, if installed, can be imported.

    Limbeck does not use it, but transformers imports it if it is installed, and fails if it was
    built for another version of torch.
    """
    if find_spec("torchvision") is None:
        return Finding("torchvision", "absent, not needed", "absent")
    try:
        module = importlib.import_module("torchvision")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        cure = f"uninstall it, or install the version built for torch {torch.__version__}"
        return Finding("torchvision", f"broken ({reason}): {cure}", "warning")
    return Finding("torchvision", f"{module.__version__}: works, not needed")


def check_weights() -> Finding:
    """Whether the weights of the embedded model are installed."""
    folder = Path(__file__).parents[1] / "world"
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        cure = "--model world cannot be loaded; train it with limbeck train-world"
        return Finding("embedded model", f"no weights: {cure}", "warning")
    size = sum(file.stat().st_size for file in files) / 1e6
    return Finding("embedded model", f"{len(files)} files, {size:.1f} MB in {folder}")


def report_diagnostics(console: Console | None = None) -> list[Finding]:
    """Print every finding as a table and return them; the state is a word, readable without color.

    Args:
        console: where to print; stdout if None.
    """
    findings = [*check_machine(), *check_packages(), check_weights()]
    title = "limbeck doctor"
    table = Table("state", "what", "found", title=title, title_justify="left", box=None)
    for finding in findings:
        state = f"[{_COLORS[finding.state]}]{finding.state}[/]"
        table.add_row(state, finding.subject, finding.result)
    (console or Console()).print(table)
    return findings
