"""run a predefined comparison of experiments and plot it"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path

USAGE = """usage: limbeck study NAME [OPTIONS]

Run a study and plot it. The same command resumes a stopped study.

{studies}

Questions that a grid of runs answers, with seeds and intervals, are files for
limbeck sweep: see docs/ablations.md.

  limbeck study NAME --help     options of a study"""


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck study NAME``, or list the studies."""
    from limbeck.cli.run_folder import OutputOptions, exit_if_incomplete
    from limbeck.config.command_line import documentation, parse
    from limbeck.config.discovery import choices, find
    from limbeck.studies.base import Study

    studies = choices(Study)
    if not argv or argv[0] in ("-h", "--help"):
        lines = [
            textwrap.fill(f"  {name:14s}{question(cls)}", 78, subsequent_indent=" " * 16)
            for name, cls in studies.items()
        ]
        print(USAGE.format(studies="\n".join(lines)))
        return
    name, *rest = argv
    if name.startswith("-"):
        usage, names = "limbeck study NAME [OPTIONS]", ", ".join(studies)
        raise ValueError(f"the name of the study comes first: {usage}; accepted: {names}")
    cls = find(Study, name)
    sections = [(cls, None), (OutputOptions, None)]
    study, output = parse(sections, rest, f"limbeck study {name}", documentation(cls)[0])
    study.rows()  # refuses options before anything is loaded or written
    folder = output.out or Path("runs") / f"study-{_folder_name(cls)}"
    print(study.run(folder, output.device))
    exit_if_incomplete(folder)


def _folder_name(cls: type) -> str:
    """The name of a study, however it is spelled on the command line; of one's own, its class."""
    from limbeck.config.discovery import component_name, is_own
    from limbeck.system.files import slug

    return slug(cls.__name__) if is_own(cls) else component_name(cls)


def question(cls: type) -> str:
    """The question that a study answers: the first line of its module."""
    module = inspect.getmodule(cls)
    return ((module.__doc__ if module else None) or "").strip().splitlines()[0]
