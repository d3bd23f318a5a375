"""Progress bar of a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from limbeck.runs.report.tables import seconds_text
from limbeck.runs.stage import StagePosition


def time_left(stage: StagePosition, remaining: int, speed: float) -> str:
    """Time left over all stages, as ``, about 20 s left``; empty at the end.

    Args:
        stage: which stage of a preset the run is.
        remaining: steps left in this stage.
        speed: steps per second.
    """
    seconds = stage.seconds_left(remaining, speed)
    if seconds < 0.5:
        return ""
    scope = f" over all {stage.total} stages" if stage.total > 1 else ""
    text = seconds_text(seconds) if seconds >= 10 else f"{seconds:.0f} s"
    return f", about {text} left{scope}"


class RunProgress:
    """A bar with the step, the speed, the time left and the newest metrics.

    Args:
        console: where it is drawn.
        stage: which stage of a preset the run is.
        steps: steps of the run.
        step: steps done.
    """

    def __init__(self, console: Console, stage: StagePosition, steps: int, step: int):
        self._stage, self._steps = stage, steps
        self._bar = Progress(
            TextColumn(str(stage)),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[metrics]}"),
            console=console,
        )
        fields: dict[str, Any] = {"metrics": "", "rate": "", "left": ""}
        self._task = self._bar.add_task("", total=steps, completed=step, **fields)

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, step: int, line: Mapping[str, Any] | None) -> None:
        """Show the state after a step.

        Args:
            step: steps done.
            line: the newest line of metrics.jsonl; None if there is none.
        """
        speed, rate, metrics, left = self._bar.tasks[0].speed, "", "", ""
        if speed:
            left = time_left(self._stage, self._steps - step, speed).removeprefix(", ")
            rate = f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step"
        if line and None not in (line["t"], line["gradient"]):  # None: the run is about to stop
            metrics = (
                f"t {line['t']:.2f}  gradient {line['gradient']:.3g}  "
                f"evaluations {line['evaluations']:,}"
            )
        self._bar.update(self._task, completed=step, metrics=metrics, rate=rate, left=left)
