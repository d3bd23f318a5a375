"""list the methods with their network passes, counted"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.diffusion.prior import Prior
    from limbeck.methods.base import Method


def main(argv: Sequence[str]) -> None:
    """``limbeck methods``: name, passes counted on the embedded model, critic, what is differentiated, paper."""
    if argv and argv[0] in ("-h", "--help"):
        print(
            "usage: limbeck methods\n\nList the methods. Network passes are counted here and now, per particle and step, with"
        )
        print("default options, on the embedded model (half a minute). It takes no options.")
        return
    if argv:
        raise ValueError(f"methods takes no options, not {argv[0]!r}")
    from rich.console import Console
    from rich.table import Table

    from limbeck.config.discovery import choices
    from limbeck.methods.base import Method
    from limbeck.priors.loading import load

    prior = load("world", "cpu")
    table = Table(
        "method",
        "calls",
        "rows",
        "trained",
        "rows in general",
        "critic",
        "backward",
        "paper",
        box=None,
        pad_edge=False,
    )
    console = Console()
    with console.status("counting") as status:
        for name, cls in choices(Method).items():
            status.update(f"counting {name}")
            method: Method = cls()
            critic = "critic" in {f.name for f in dataclasses.fields(method)}
            told = (method.passes, "yes" if critic else "", method.backward, paper(method.bibtex))
            table.add_row(name, *count(method, prior), *told)
    console.print(table)


def count(method: Method, prior: Prior) -> tuple[str, str, str]:
    """Calls, rows and trained rows of a method as text."""
    from limbeck.training.network_calls import count_network_calls

    found = count_network_calls(method, prior)
    return span(found.calls), span(found.rows), span(found.grad_rows)


def span(ends: tuple[float, float]) -> str:
    """Both ends, or one where they agree."""
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def paper(bibtex: str) -> str:
    """First author and year, from a key such as ``poole2022dreamfusion``."""
    key = re.search(r"\{([a-z]+)(\d{4})", bibtex)
    return f"{key[1].capitalize()} {key[2]}" if key else ""
