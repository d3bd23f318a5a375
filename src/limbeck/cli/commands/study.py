"""answer a ready question with a set of runs and one picture"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> None:
    """``limbeck study NAME [options]``; without a name, the list of them."""
    from limbeck.cli.run_folder import Place
    from limbeck.config.command_line import described, parse
    from limbeck.config.discovery import choices, find
    from limbeck.studies.base import Study

    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: limbeck study NAME [OPTIONS]\n\nRun a ready study and draw it; a stopped one goes on with the same command.\n"
        )
        for name, cls in choices(Study).items():
            print(f"  {name:14s}{question(cls)}")
        print("\n  limbeck study NAME --help     its options")
        return
    name, *rest = argv
    if name.startswith("-"):
        raise ValueError(
            f"the name of the study comes first: limbeck study NAME [OPTIONS]; accepted: {', '.join(choices(Study))}"
        )
    cls = find(Study, name)
    study, place = parse(
        [(cls, None), (Place, None)], rest, f"limbeck study {name}", described(cls)[0]
    )
    print(study.run(place.out or Path("runs") / f"study-{name.lower()}", place.device))


def question(cls: type) -> str:
    """What a study asks: the first line of its file."""
    module = inspect.getmodule(cls)
    return ((module.__doc__ if module else None) or "").strip().splitlines()[0]
