"""list the methods with their network calls per step"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.diffusion.prior import Prior
    from limbeck.methods.base import Method

ABOUT = """List the methods. Network calls are counted per particle and step, with the default
options of each method, on the embedded model (half a minute)."""
COLUMNS = ("method", "calls", "rows", "trained", "rows in general", "critic", "backward", "paper")


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck methods``: one row per method, with its counted calls and its paper."""
    from limbeck.config.command_line import parse

    parse([], argv, "limbeck methods", ABOUT)

    from rich.console import Console
    from rich.table import Table

    from limbeck.config.discovery import choices
    from limbeck.methods.base import Method
    from limbeck.priors.loading import load

    prior = load("world", "cpu")
    table = Table(*COLUMNS, box=None, pad_edge=False)
    console = Console()
    with console.status("counting") as status:
        for name, cls in choices(Method).items():
            status.update(f"counting {name}")
            method: Method = cls()
            critic = "critic" in {f.name for f in dataclasses.fields(method)}
            notes = (method.passes, "yes" if critic else "", method.backward, paper(method.bibtex))
            table.add_row(name, *count_calls(method, prior), *notes)
    console.print(table)


def count_calls(method: Method, prior: Prior) -> tuple[str, str, str]:
    """Calls, rows and trained rows of a method, formatted."""
    from limbeck.training.network_calls import count_network_calls

    counts = count_network_calls(method, prior)
    return format_range(counts.calls), format_range(counts.rows), format_range(counts.grad_rows)


def format_range(ends: tuple[float, float]) -> str:
    """Both ends of a range, or one number if they are equal."""
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def paper(bibtex: str) -> str:
    """First author and year, from a BibTeX key such as ``poole2022dreamfusion``."""
    key = re.search(r"\{([a-z]+)(\d{4})", bibtex)
    return f"{key[1].capitalize()} {key[2]}" if key else ""
