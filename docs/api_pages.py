"""One page of the API reference per package, written from the files of the package."""

import re
from pathlib import Path

import limbeck

ROOT = Path(limbeck.__file__).parent
#: packages in the order in which a reader meets them, and what each is
PACKAGES = {
    "api": "Functions of the package",
    "methods": "Methods",
    "distillation": "Weights, timesteps, noise, critics",
    "representations": "Representations",
    "priors": "Priors",
    "diffusion": "Schedules, guidance, sampling",
    "training": "Experiments, runs, presets",
    "metrics": "Metrics",
    "evaluation": "Evaluation",
    "studies": "Studies",
    "sweeps": "Sweeps",
    "leaderboard": "Leaderboards",
    "runs": "Run folders and reports",
    "graphics": "Cameras, fields, rendering, export",
    "world": "The embedded model",
    "config": "Options and configuration files",
    "system": "Files, checkpoints, devices",
}


def module_names(package: str) -> list[str]:
    """All modules of a package in which something is documented, as dotted names."""
    files = [ROOT / f"{package}.py"] if (ROOT / f"{package}.py").is_file() else []
    files += sorted((ROOT / package).rglob("*.py"))
    names = []
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if re.search(r"^(class|def) [a-zA-Z]", path.read_text(encoding="utf-8"), re.M):
            names.append(".".join(["limbeck", *(p for p in parts if p != "__init__")]))
    return names


def page(package: str, title: str) -> str:
    lines = [title, "=" * len(title), ""]
    for name in module_names(package):
        lines += [name, "-" * len(name), "", f".. automodule:: {name}", ""]
    return "\n".join(lines)


def write_if_changed(path: Path, text: str) -> None:
    """Sphinx reads a page again where its file is newer."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write_api_pages(folder: Path) -> None:
    """Write the pages of the reference; `index.md` beside them is written by hand."""
    found = {p.stem for p in ROOT.iterdir() if (p / "__init__.py").is_file()}
    more = {name: name for name in sorted(found - set(PACKAGES) - {"cli"})}
    for package, title in (PACKAGES | more).items():
        write_if_changed(folder / f"limbeck.{package}.rst", page(package, title))
