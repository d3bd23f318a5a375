"""Refuses sums and products of one number per row that run over columns in code of one's own.

``alpha * x0`` with alpha ``[B]`` and x0 ``[B, C, H, W]`` is an error of torch, unless there happen
to be as many rows as columns: then each column gets the number of a row, and nothing else tells.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from limbeck.config.discovery import OWN_MODULE, is_own
from limbeck.training.experiment import Experiment

#: Names of elementwise functions, without their variants with underscores.
_ELEMENTWISE = (
    *("add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide", "pow", "lerp"),
    *("radd", "rsub", "rmul", "rdiv", "rtruediv", "rpow", "iadd", "isub", "imul", "idiv"),
    *("truediv", "itruediv", "where", "maximum", "minimum", "addcmul", "addcdiv", "atan2"),
)


class RowBroadcasts(TorchFunctionMode):
    """Context in which such an operation raises an error, if code of one's own calls it.

    Args:
        shape: shape of x0.
    """

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self._shape = tuple(shape)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See ``TorchFunctionMode``."""
        if getattr(func, "__name__", "").strip("_") in _ELEMENTWISE:
            shapes = {tuple(a.shape) for a in args if isinstance(a, Tensor)}
            found = next(filter(self._runs_over_columns, shapes), None)
            if self._shape in shapes and found and _called_by_own_code():
                raise ValueError(
                    f"a tensor {list(found)} beside one {list(self._shape)} runs over the columns, "
                    "not over the rows, which goes unnoticed as there are equally many: give it "
                    f"the shape {[self._shape[0], *[1] * (len(self._shape) - 1)]}, as "
                    "limbeck.diffusion.tensors.expand does"
                )
        return func(*args, **(kwargs or {}))

    def _runs_over_columns(self, shape: tuple[int, ...]) -> bool:
        rows = self._shape[0]
        return 0 < len(shape) < len(self._shape) and shape == (rows, *[1] * (len(shape) - 1))


def _called_by_own_code() -> bool:
    """Whether the innermost function that is not of torch stands in a file of one's own."""
    frame = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if not name.startswith("torch"):
            return name.startswith(OWN_MODULE)
        frame = frame.f_back  # type: ignore[assignment]
    return False


def refusing_row_broadcasts(
    experiment: Experiment, shape: torch.Size
) -> AbstractContextManager[object]:
    """Return the context for the first step of a run; one without effect if none can go unnoticed.

    Args:
        experiment: the options of the run.
        shape: shape of x0 of the step.
    """
    e, rows = experiment, shape[0]
    parts = (e.method, e.noise, e.weight, e.grad_transform)
    if rows == 1 or rows not in shape[1:] or not any(is_own(type(part)) for part in parts):
        return nullcontext()
    return RowBroadcasts(shape)
