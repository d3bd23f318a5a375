"""The table of a sweep in the terminal: done, running, failed, and the time left."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from limbeck.runs.report.tables import seconds_text
from limbeck.sweeps.execution import RunOutcome
from limbeck.sweeps.planned_runs import label_of
from limbeck.sweeps.progress import SweepProgress
from limbeck.sweeps.sweep_file import LOGS

_REFRESH_SECONDS = 1.0
_MAX_FAILED = 5  #: failed runs in the live table; the page lists all


def sweep_closing_lines(progress: SweepProgress) -> list[str]:
    """What is said when a sweep has ended: each failure, those that are alike once, and counts."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, outcome in progress.failed.items():
        message = outcome.message.replace(name, "NAME")
        alike.setdefault((outcome.kind, message), []).append(name)
    lines = []
    for (kind, message), (first, *others) in alike.items():
        names = f"{first} and {len(others)} more" if others else first
        text = message if others else progress.failed[first].message
        log = progress.root / LOGS / f"{first}.log"
        lines.append(f"limbeck: {names} {kind}: {text}; see {log}")
    done, failed, total = len(progress.finished), len(progress.failed), len(progress.runs)
    counts = f"{done} of {total} runs finished, {failed} failed"
    if progress.is_hopeless:
        lines.append(
            "limbeck: stopped, as the runs fail alike before their first step, with every value of "
            "the options; correct this and repeat the command"
        )
        counts += f", {total - done - failed} not started"
    return [*lines, counts]


class LiveTable:
    """Shows a sweep while it goes on.

    Where there is no terminal, it prints one line when the first runs have started, and one per run
    that ends.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console):
        self.console, self.started_at = console, time.monotonic()
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self._shown_at = 0.0
        self._has_announced = False

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def update(self, progress: SweepProgress, outcome: RunOutcome | None) -> None:
        """Show the state.

        Args:
            progress: the state.
            outcome: that of a run that has just ended, or None.
        """
        if not self.console.is_terminal:
            self._print_line(progress, outcome)
        now = time.monotonic()
        if self.console.is_terminal and (outcome or now - self._shown_at > _REFRESH_SECONDS):
            self._shown_at = now
            self.live.update(self.render(progress), refresh=True)

    def _print_line(self, progress: SweepProgress, outcome: RunOutcome | None) -> None:
        if outcome is not None:
            ending = f"{outcome.kind}: {outcome.message}" if outcome.message else outcome.kind
            self._print(f"{self.counts(progress)}  {outcome.name} {ending}")
        elif progress.running and not self._has_announced:
            self._print(f"{self.counts(progress)}; a line follows for each run that ends")
        self._has_announced = self._has_announced or bool(progress.running)

    def _print(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def counts(self, progress: SweepProgress) -> str:
        """The numbers of runs, and the time left, in one line."""
        done, failed, total = len(progress.finished), len(progress.failed), len(progress.runs)
        text = f"{done} of {total} done, {len(progress.running)} running, {failed} failed"
        if progress.num_waiting:
            text += f", {progress.num_waiting} waiting for a machine"
        left = progress.seconds_left(time.monotonic() - self.started_at)
        return f"{text}, about {seconds_text(left)} left" if left else text

    def render(self, progress: SweepProgress) -> Group:
        """The counts, a row per run in progress, and the last failed runs."""
        table = Table(box=None, pad_edge=False, show_header=False)
        by_name = {run.name: run for run in progress.runs}
        for name in sorted(progress.running):
            run = by_name[name]
            table.add_row(
                Text("running", "cyan"),
                Text(label_of(run.options) or run.name),
                Text(f"step {progress.steps_taken(run)} of {run.steps}"),
            )
        for name, outcome in list(progress.failed.items())[-_MAX_FAILED:]:
            label = label_of(by_name[name].options) or name
            table.add_row(Text(outcome.kind, "red"), Text(label), Text(outcome.message))
        return Group(Text(self.counts(progress)), table)
