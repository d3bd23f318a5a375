"""metrics.jsonl: one line per step, gathered on the device and fetched and written in batches, beside the steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.runs.loggers import OpenLogger
from limbeck.training.trainer import Step
from limbeck.system.background_writer import BackgroundWriter

Hearer = Callable[[Sequence[dict[str, Any]]], None]
ROWS = 16  #: at most so many rows of a step are kept apart, by time, for the picture of the gradient by t


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a last line that a killed run left half written is dropped."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class MetricsLog:
    """A metrics file that is open for writing after ``step`` steps; later lines, of a sitting that was cut off, are taken out.

    check: asked beside the steps after every batch of lines; raises where the run must not go on. told: hears of every line in the
    file, those that are there already first, the others beside the steps.
    """

    def __init__(
        self, path: Path, step: int, writer: BackgroundWriter, sink: OpenLogger | None = None, check: Callable[[], None] | None = None,
        told: Hearer | None = None,
    ):  # fmt: skip
        self.path, self.writer, self.sink, self.check, self.told = path, writer, sink, check, told
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        part = path.with_name(path.name + ".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        part.replace(path)
        self.last: dict[str, Any] = kept[-1] if kept else {}  #: the newest line in the file
        if told is not None:
            told(kept)
        self._waiting: list[tuple[dict[str, Any], dict[str, Tensor]]] = []

    def add(self, step: Step, evaluations: int, elapsed: float) -> None:
        """Keep the figures of a step; nothing is fetched from the device."""
        told = {"step": step.step, "evaluations": evaluations, "seconds": round(elapsed, 3)}
        apart = {"times": step.sample.t[:ROWS], "gradients": step.gradient[:ROWS].flatten(1).square().mean(1).sqrt()}
        self._waiting.append((told, step.metrics | apart))

    def flush(self) -> None:
        """Have the writer fetch what is waiting, one transfer per device, and append it to the file."""
        if not self._waiting:
            return
        tensors = [(i, name, value) for i, (_, figures) in enumerate(self._waiting) for name, value in figures.items()]
        stacked = []
        for device in {value.device for _, _, value in tensors}:
            here = [(i, name, value) for i, name, value in tensors if value.device == device]
            places = [(i, name, value.numel(), value.ndim) for i, name, value in here]
            stacked.append((places, torch.cat([value.detach().reshape(-1).float() for _, _, value in here])))
        lines = [told for told, _ in self._waiting]
        self._waiting = []
        self.writer.put(partial(self._write, lines, stacked))

    def _write(self, lines: list[dict[str, Any]], stacked: list[tuple[list[tuple[int, str, int, int]], Tensor]]) -> None:
        for places, values in stacked:
            numbers = iter(values.tolist())
            for i, name, count, axes in places:
                row = [_short(next(numbers)) for _ in range(count)]
                lines[i][name] = row if axes else row[0]
        with self.path.open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        if self.sink is not None:
            self.sink.figures(lines)
        if self.told is not None:
            self.told(lines)
        self.last = lines[-1]
        if self.check is not None:
            self.check()


def _short(number: float) -> float | None:
    """Seven digits, all that float32 has; JSON has no NaN."""
    return float(f"{number:.7g}") if math.isfinite(number) else None
