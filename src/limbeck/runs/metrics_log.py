"""metrics.jsonl: one line per step, collected on the device and written in the background."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.runs.loggers import LogWriter
from limbeck.system.background_writer import BackgroundWriter
from limbeck.system.checkpoint import sync
from limbeck.system.files import write_text
from limbeck.system.notices import notify
from limbeck.training.step import Step

MetricsListener = Callable[[Sequence[dict[str, Any]]], None]

_MAX_ROWS = 16  #: rows of a step whose t and gradient norm are recorded, for the plot over t


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics file; damaged lines are left out, with a notice that names them.

    An incomplete last line is that of a killed run and is dropped without a notice.

    Returns:
        One dict per step; empty if there is no file.
    """
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    rows, damaged = [], []
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        row = parse_row(line)
        if row is not None:
            rows.append(row)
        elif number <= len(lines):
            damaged.append(number)
    if damaged:
        first = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        notify(
            f"{path}: {len(damaged)} of {len(lines)} lines damaged and left out (line {first}); "
            f"{len(rows)} rows are left"
        )
    return rows


def parse_row(line: bytes) -> dict[str, Any] | None:
    """The metrics of a line; None if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def last_recorded_step(path: Path, tail: int = 16384) -> int:
    """Step of the last complete line of a metrics file; 0 if there is none.

    Args:
        path: the file.
        tail: bytes read at its end.
    """
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - tail, 0))
        lines = file.read().decode("utf-8", "replace").splitlines()
    for line in reversed(lines):
        with suppress(ValueError, TypeError, KeyError):
            return int(json.loads(line)["step"])
    return 0


class MetricsLog:
    """An open metrics file.

    Args:
        path: the file. Lines after ``step``, of a session that was cut off, and damaged lines are
            removed.
        step: number of steps that the run has taken.
        writer: writes in the background.
        log_writer: also gets every new line.
        check: called in the background after every batch of lines; raises to stop the run.
        listener: gets the lines already in the file, then every batch of new lines in the
            background.

    Attributes:
        last: newest line in the file; empty if there is none.
    """

    def __init__(
        self,
        path: Path,
        step: int,
        writer: BackgroundWriter,
        log_writer: LogWriter | None = None,
        check: Callable[[], None] | None = None,
        listener: MetricsListener | None = None,
    ):
        self.path, self.writer, self.log_writer = path, writer, log_writer
        self.check, self.listener = check, listener
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.last: dict[str, Any] = kept[-1] if kept else {}
        if listener is not None:
            listener(kept)
        self._pending: list[tuple[dict[str, Any], dict[str, Tensor]]] = []

    def add(self, step: Step, evaluations: int, elapsed: float) -> None:
        """Keep the metrics of a step; nothing is copied from the device yet.

        Args:
            step: the step.
            evaluations: network evaluations of the run so far.
            elapsed: seconds of the run so far.
        """
        line = {"step": step.step, "evaluations": evaluations, "seconds": round(elapsed, 3)}
        rows = step.gradient[:_MAX_ROWS].flatten(1)
        per_row = {
            "row_t": step.inputs.t[:_MAX_ROWS],
            "row_gradient": rows.square().mean(1).sqrt(),
        }
        self._pending.append((line, step.metrics | per_row))

    def flush(self) -> None:
        """Queue the pending metrics for writing, with one transfer per device."""
        if not self._pending:
            return
        tensors = [
            (i, name, value)
            for i, (_, metrics) in enumerate(self._pending)
            for name, value in metrics.items()
        ]
        batches = []
        for device in {value.device for _, _, value in tensors}:
            group = [(i, name, value) for i, name, value in tensors if value.device == device]
            layout = [(i, name, value.numel(), value.ndim) for i, name, value in group]
            flat = [value.detach().reshape(-1).float() for _, _, value in group]
            batches.append((layout, torch.cat(flat)))
        lines = [line for line, _ in self._pending]
        self._pending = []
        self.writer.submit(partial(self._write, lines, batches))

    def sync(self) -> None:
        """Queue a wait until all lines written so far, and the name of the file, are on disk."""
        for path in (self.path, self.path.parent):
            self.writer.submit(partial(sync, path))

    def _write(
        self,
        lines: list[dict[str, Any]],
        batches: list[tuple[list[tuple[int, str, int, int]], Tensor]],
    ) -> None:
        for layout, values in batches:
            numbers = iter(values.tolist())
            for i, name, count, ndim in layout:
                row = [_json_number(next(numbers)) for _ in range(count)]
                lines[i][name] = row if ndim else row[0]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        if self.log_writer is not None:
            self.log_writer.log_metrics(lines)
        if self.listener is not None:
            self.listener(lines)
        self.last = lines[-1]
        if self.check is not None:
            self.check()


def _json_number(number: float) -> float | None:
    """Round to 7 digits, the precision of float32; None for NaN and infinity, which JSON lacks."""
    return float(f"{number:.7g}") if math.isfinite(number) else None
