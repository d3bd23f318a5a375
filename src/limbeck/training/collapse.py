"""Whether a run of what has sides still shows anything: figures taken at every step, and the causes that end it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.representations.base import Render

EMPTY = 0.005  #: mean opacity below which nothing is there
FULL = 0.98  #: opacity above which a picture is covered
OPEN = 0.5  #: opacity of the border below which a run began as a thing before a background
FLAT = 0.02  #: deviation of colour over a picture below which it shows nothing
FALL = 0.2  #: a figure below this share of what it was has collapsed
LEAST = {"alpha": 0.02, "contrast": 0.01}  #: what a figure must have been to collapse
BEFORE = 5  #: what a figure was is its mean over so many windows


class DegenerateRunError(RuntimeError):
    """A run that shows nothing any more, or nothing but fog. ``cause`` says what is seen and what to change."""

    def __init__(self, step: int, cause: str):
        super().__init__(f"step {step}: {cause}")
        self.step, self.cause = step, cause


@torch.no_grad()
def covered(render: Render) -> dict[str, Float[Tensor, ""]]:
    """Figures of a render that has an opacity, on its device: ``alpha``, its mean; ``border``, its mean over the outermost pixels;
    ``contrast``, the deviation of each channel over a picture, in units of the picture. Nothing of what has none."""
    if render.alpha is None:
        return {}
    a = render.alpha.detach()
    ring = torch.cat([a[..., 0, :], a[..., -1, :], a[..., 1:-1, 0], a[..., 1:-1, -1]], -1)
    image = render.image.detach().flatten(2)
    return {"alpha": a.mean(), "border": ring.mean(), "contrast": image.std(2).mean()}


class CollapseDetector:
    """What the figures of a run say, line by line in the order of its steps; the first cause found stays.

    A window is a fiftieth of the run, 10 to 200 steps; nothing is judged in the first twentieth, and no fall in the first seventh,
    in which things are carved out. A run whose border was covered from the start is a scene around the camera: it may stay so as
    long as it is not of one colour.
    """

    def __init__(self, steps: int):
        self.window = min(max(steps // 50, 10), 200)
        self.grace, self.settled = (
            max(self.window, steps // 20),
            max(self.window * (BEFORE + 1), steps // 7),
        )
        self.recent: deque[dict[str, float]] = deque(maxlen=self.window * (BEFORE + 1))
        self.first: list[float] = []
        self.found: DegenerateRunError | None = None

    def see(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Lines as in metrics.jsonl; those without the figures of ``covered`` are passed over."""
        for line in lines:
            row = {name: line.get(name) for name in ("alpha", "border", "contrast", "t")}
            if self.found is not None or any(value is None for value in row.values()):
                continue
            self.recent.append({name: float(value) for name, value in row.items()})  # type: ignore[arg-type]
            if len(self.first) < self.window:
                self.first.append(self.recent[-1]["border"])
            cause = (
                self._cause()
                if line["step"] >= self.grace and len(self.recent) >= self.window
                else ""
            )
            cause = cause or (self._fall() if line["step"] >= self.settled else "")
            self.found = DegenerateRunError(line["step"], cause) if cause else None

    def ask(self) -> None:
        """Raise ``Doomed`` if a cause was found."""
        if self.found is not None:
            raise self.found

    def _now(self, name: str) -> float:
        return sum(row[name] for row in list(self.recent)[-self.window :]) / self.window

    def _cause(self) -> str:
        alpha, border, contrast = (self._now(name) for name in ("alpha", "border", "contrast"))
        over = f"over the last {self.window} steps"
        percent = f"{100 * alpha:.3g} % of the picture is covered"
        if alpha < EMPTY:
            return (f"the scene is empty: {percent} {over}. Lower the representation's rate or the weights that press on its "
                    "opacity, or start from more of it")  # fmt: skip
        if min(alpha, border) <= FULL:
            return ""
        if contrast < FLAT:
            return (f"the camera is inside fog: {percent}, by one colour, {over}. Start from less density, move the cameras away "
                    "with --cameras.distance, or raise the weights that press on opacity")  # fmt: skip
        if sum(self.first) / len(self.first) < OPEN:
            return (f"the opacity is saturated: {percent} {over}, up to the border, which was open at first. Lower the "
                    "representation's rate, or raise the weights that press on its opacity")  # fmt: skip
        return ""

    def _fall(self) -> str:
        if len(self.recent) < (BEFORE + 1) * self.window:
            return ""
        old = list(self.recent)[: -self.window]
        was = {
            name: sum(row[name] for row in old) / len(old) for name in ("alpha", "contrast", "t")
        }
        for name, least in LEAST.items():
            now = self._now(name)
            if was[name] > least and now < FALL * was[name]:
                what = {"alpha": "opacity", "contrast": "contrast of the picture"}[name]
                return (f"the thing collapsed: the {what} fell from {was[name]:.2g} to {now:.2g} within {self.window} steps, while "
                        f"the mean t went from {was['t']:.2f} to {self._now('t'):.2f}. Let the times fall later or less far, lower "
                        "the representation's rate, or its weights that press on opacity")  # fmt: skip
        return ""
