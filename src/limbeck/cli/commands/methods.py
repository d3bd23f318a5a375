"""list the methods with their network passes per step"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.methods.base import Method

ABOUT = """List the methods: what they do, their network passes per particle and step, and their
paper. --count measures the passes of the default options on the embedded model."""
_WIDTH = 79
_INDENT = 12


@dataclass(frozen=True)
class MethodsOptions:
    """What is listed.

    Attributes:
        count: also measure the passes, which takes half a minute.
    """

    count: bool = False


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck methods``: the methods by group, with what they do and what they cost."""
    from limbeck.config.command_line import parse
    from limbeck.config.discovery import choices
    from limbeck.methods.base import Method

    (options,) = parse([(MethodsOptions, None)], argv, "limbeck methods", ABOUT)
    methods = choices(Method)
    groups: dict[str, list[str]] = {}
    for name, cls in methods.items():
        groups.setdefault(group(cls), []).append(name)
    for title in sorted(groups):
        print(title.split(maxsplit=1)[1] + "\n")
        for name in groups[title]:
            print(describe(name, methods[name]))
        print()
    if options.count:
        print_counts(methods)
    else:
        print("Passes are rows through the network per particle and step. More: docs/methods/")


def group(cls: type[Method]) -> str:
    """Title of the group of a method, after a digit that orders the groups."""
    from limbeck.methods.base import CriticMethod, EditMethod

    if issubclass(cls, EditMethod) or cls.optimizes == "noise":
        return "3 Of an image and its description"
    return "2 With a critic" if issubclass(cls, CriticMethod) else "1 From a prompt"


def describe(name: str, cls: type[Method]) -> str:
    """A method in a few lines of at most 79 columns: what it does, passes and paper."""
    summary = (cls.__doc__ or "").strip().splitlines()[0]
    source = paper(cls.bibtex)
    passes = f"passes: {cls.passes}" + (f" [{source}]" if source else "")
    lines = [f"{name:{_INDENT - 2}s}  {summary}", " " * _INDENT + passes]
    indent = " " * _INDENT
    return "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent=indent) for line in lines)


def print_counts(methods: dict[str, type[Method]]) -> None:
    """Measure and print calls, rows and trained rows of each method with its default options."""
    from limbeck.priors.loading import load
    from limbeck.training.network_calls import count_network_calls

    prior = load("world", "cpu")
    width = max(map(len, methods))
    print(f"{'counted':{width}s}{'calls':>10s}{'rows':>10s}{'trained':>10s}")
    for name, cls in methods.items():
        counts = count_network_calls(cls(), prior)
        values = map(format_range, (counts.calls, counts.rows, counts.grad_rows))
        print(f"{name:{width}s}" + "".join(f"{value:>10s}" for value in values), flush=True)


def format_range(ends: tuple[float, float]) -> str:
    """Both ends of a range, or one number if they are equal."""
    low, high = ends
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def paper(bibtex: str) -> str:
    """First author and year of a BibTeX entry."""
    author = re.search(r"author\s*=\s*\{([^,}]+),", bibtex)
    key = re.search(r"\{[a-z]+(\d{4})", bibtex)
    return f"{author[1]} {key[1]}" if author and key else ""
