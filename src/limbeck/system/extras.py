"""Optional packages, and the extras of Limbeck that install them."""

from __future__ import annotations

import importlib.util

#: extra by package
_EXTRAS = {
    "nicegui": "ui",
    "numba": "world",
    "optuna": "optuna",
    "ray": "ray",
    "submitit": "slurm",
}


def require_package(package: str) -> None:
    """Refuse early what needs a package that is not installed.

    Raises:
        ModuleNotFoundError: if it is not.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def install_command(package: str) -> str:
    """The command that installs a package, by the extra where there is one."""
    name = package.partition(".")[0]
    return f"pip install 'limbeck[{_EXTRAS[name]}]'" if name in _EXTRAS else f"pip install {name}"
