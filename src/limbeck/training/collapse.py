"""Detection of 3D runs whose renders became empty, saturated or uniform."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.representations.base import Render

HISTORY_WINDOWS = 5  #: number of windows whose mean is what a metric was before

_METRICS = ("alpha", "border", "contrast", "t")
_EMPTY_OPACITY = 0.005  #: mean opacity below which a render is empty
_SATURATED_OPACITY = 0.98  #: opacity above which an image is covered
_OPEN_BORDER = 0.5  #: initial border opacity below which the run is of an object, not of a scene
_MIN_CONTACT = 0.005  #: share of a surface at a side of the box that is worth a message
_FLAT_CONTRAST = 0.02  #: contrast below which an image is uniform
_COLLAPSE_RATIO = 0.2  #: share of its former value below which a metric has collapsed
_MIN_BEFORE_COLLAPSE = {"alpha": 0.02, "contrast": 0.01}  #: former value a collapse needs


class DegenerateRunError(RuntimeError):
    """A run whose renders are empty or uniform fog.

    Attributes:
        step: step at which the cause was found.
        cause: what is seen and what to change.
    """

    def __init__(self, step: int, cause: str):
        super().__init__(f"step {step}: {cause}")
        self.step, self.cause = step, cause


@torch.no_grad()
def opacity_metrics(render: Render) -> dict[str, Float[Tensor, ""]]:
    """Return the metrics of a 3D render that ``CollapseDetector`` reads.

    Returns:
        Scalars on the device of the render: ``alpha``, the mean opacity; ``border``, the mean
        opacity of the outermost pixels; ``contrast``, the standard deviation of a channel over an
        image, in units of the image. Empty for renders without opacity.
    """
    if render.alpha is None:
        return {}
    alpha = render.alpha.detach()
    rows = (alpha[..., 0, :], alpha[..., -1, :])
    columns = (alpha[..., 1:-1, 0], alpha[..., 1:-1, -1])
    border = torch.cat([*rows, *columns], -1)
    image = render.image.detach().flatten(2)
    return {"alpha": alpha.mean(), "border": border.mean(), "contrast": image.std(2).mean()}


def box_contact_message(contact: Mapping[str, float], bound: float) -> str:
    """Say that an object touches the sides of its box, and what to do; empty if it does not.

    Args:
        contact: fraction of the surface at each side, as ``box_contact`` returns it.
        bound: half the side of the box.
    """
    touched = {side: share for side, share in contact.items() if share >= _MIN_CONTACT}
    if not touched:
        return ""
    sides = ", ".join(f"{side} with {100 * share:.2g} %" for side, share in touched.items())
    return (
        f"the object touches its box at the {sides} of its surface, so it is cut off there or "
        f"fills the box. To give it room, set --representation.bound above {bound:g} (and move "
        "the cameras away by --cameras.camera-distance-range); if a wall or floor grew that is no "
        "part of the object, try another --seed or a smaller bound"
    )


class CollapseDetector:
    """Reads the metrics of a run in the order of its steps and keeps the first cause of a collapse.

    A window is a fiftieth of the run, between 10 and 200 steps. Nothing is judged in the first
    twentieth of the run, and no drop in the first seventh, in which objects are carved out. A run
    whose border was covered from the start is a scene around the camera: it may stay covered unless
    it is of a single color.

    Args:
        steps: number of steps of the whole run.

    Attributes:
        error: the first cause found, None so far.
    """

    def __init__(self, steps: int):
        self.window = min(max(steps // 50, 10), 200)
        history = self.window * (HISTORY_WINDOWS + 1)
        self.warmup_steps = max(self.window, steps // 20)
        self.collapse_start = max(history, steps // 7)
        self.recent: deque[dict[str, float]] = deque(maxlen=history)
        self.initial_border: list[float] = []
        self.error: DegenerateRunError | None = None

    def update(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Read lines of metrics.jsonl, skipping those without ``opacity_metrics``."""
        for line in lines:
            if self.error is not None or any(line.get(name) is None for name in _METRICS):
                continue
            self.recent.append({name: float(line[name]) for name in _METRICS})
            if len(self.initial_border) < self.window:
                self.initial_border.append(self.recent[-1]["border"])
            cause = self._cause(line["step"])
            self.error = DegenerateRunError(line["step"], cause) if cause else None

    def raise_if_collapsed(self) -> None:
        """Raise the ``DegenerateRunError`` that was found, if any."""
        if self.error is not None:
            raise self.error

    def _cause(self, step: int) -> str:
        cause = ""
        if step >= self.warmup_steps and len(self.recent) >= self.window:
            cause = self._opacity_cause()
        if not cause and step >= self.collapse_start and len(self.recent) == self.recent.maxlen:
            cause = self._drop_cause()
        return cause

    def _mean_now(self, name: str) -> float:
        return sum(row[name] for row in list(self.recent)[-self.window :]) / self.window

    def _opacity_cause(self) -> str:
        """Cause by the values of the last window alone, empty if there is none."""
        alpha, border, contrast = (self._mean_now(name) for name in ("alpha", "border", "contrast"))
        over = f"over the last {self.window} steps"
        percent = f"{100 * alpha:.3g} % of the image is covered"
        if alpha < _EMPTY_OPACITY:
            return (
                f"the scene is empty: {percent} {over}. Lower the learning rate of the "
                "representation or its opacity weights, or start from a higher density"
            )
        if min(alpha, border) <= _SATURATED_OPACITY:
            return ""
        if contrast < _FLAT_CONTRAST:
            return (
                f"the camera is inside fog: {percent}, by a single color, {over}. Start from a "
                "lower density, move the cameras away with --cameras.camera-distance-range, or "
                "raise the opacity weights of the representation"
            )
        if sum(self.initial_border) / len(self.initial_border) < _OPEN_BORDER:
            return (
                f"the opacity is saturated: {percent} {over}, including the border, which was "
                "open at first. Lower the learning rate of the representation or raise its "
                "opacity weights"
            )
        return ""

    def _drop_cause(self) -> str:
        """Cause by a drop from the windows before the last to the last, empty if there is none."""
        history = list(self.recent)[: -self.window]
        t_before, t_now = (sum(row["t"] for row in history) / len(history), self._mean_now("t"))
        for name, minimum in _MIN_BEFORE_COLLAPSE.items():
            before, now = sum(row[name] for row in history) / len(history), self._mean_now(name)
            if before > minimum and now < _COLLAPSE_RATIO * before:
                label = {"alpha": "opacity", "contrast": "contrast of the image"}[name]
                return (
                    f"the object collapsed: the {label} fell from {before:.2g} to {now:.2g} within "
                    f"{self.window} steps, while the mean t went from {t_before:.2f} to "
                    f"{t_now:.2f}. Lower the timesteps later or less far, or lower the learning "
                    "rate of the representation or its opacity weights"
                )
        return ""
