"""list the runs below a folder with their state and scores"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.runs.find_runs import FoundRun


LEGEND = "object/color/pattern/background: % of images that show it, - not asked for"


@dataclass(frozen=True)
class ListOptions:
    """Which runs are listed.

    Attributes:
        folders: folder that contains runs, or latest; by default runs.
    """

    folders: tuple[Path, ...] = (Path("runs"),)

    def __post_init__(self) -> None:
        for folder in self.folders:
            if not folder.is_dir() and folder != Path("latest"):
                raise ValueError(f"there is no folder {folder}: limbeck run starts a run")


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck list``: two lines per run, the newest first."""
    from limbeck.config.command_line import parse
    from limbeck.runs.find_runs import find_folder

    about = "List the runs below a FOLDER, the newest first."
    (options,) = parse([(ListOptions, None)], argv, "limbeck list", about, "folders")

    from limbeck.runs.find_runs import find_runs

    width = max(shutil.get_terminal_size().columns, 80)
    found = [run for folder in options.folders for run in find_runs(find_folder(folder))]
    once = {run.folder.resolve(): run for run in reversed(found)}  # of folders that overlap
    runs = list(reversed(once.values()))
    for run in runs:
        print(run.folder)
        print(summary(run, time.time(), width))
    if any(verdicts(run) for run in runs):
        print(LEGEND)
    if not runs:
        print(f"no runs in {', '.join(map(str, options.folders))}")


def verdicts(run: FoundRun) -> str:
    """What share of a run's images the evaluator sees as asked for, by ``VERDICTS`` in percent.

    Empty for a run without verdicts; a dash for what its prompts do not name.
    """
    from limbeck.runs.closing_summary import VERDICTS

    try:
        means = run.data.scores.get("mean", {})
    except ValueError:
        return ""  # the summary says that it is unreadable
    if not any(name in means for name in VERDICTS):
        return ""
    return "/".join(f"{100 * means[name]:.0f}" if name in means else "-" for name in VERDICTS)


def summary(run: FoundRun, now: float, width: int) -> str:
    """State, steps, age, verdicts, settings and prompt of a run, at most ``width`` wide."""
    try:
        data = run.data
        steps = int(data.config["steps"])
        done = steps if run.state == "finished" else data.last_step
    except (ValueError, TypeError, KeyError) as error:
        return f"  unreadable: {' '.join(str(error).split())}"[:width]
    setting = " ".join(data.setting)
    line = f"  {run.state:8s} {f'{done}/{steps}':>11s}  {age(now - run.changed_at):>7s} ago  "
    line += "  ".join(part for part in (verdicts(run), setting, data.title) if part)
    return line if len(line) <= width else line[: width - 1] + "\N{HORIZONTAL ELLIPSIS}"


def age(seconds: float) -> str:
    """A time span in its largest unit, such as ``3 min`` or ``2 days``."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {'day' if unit == 'days' and count == 1 else unit}"
    return f"{max(int(seconds), 0)} s"
