"""Checks for non-finite values: at every step or, on CUDA, before anything is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

#: tensors of a step in the order in which they are computed; those of a run that has them
_DESCRIPTIONS = {
    "x0": "the render or its encoding",
    "eps": "the noise",
    "direction": "the direction the method returned",
    "image_direction": "the direction in image space the method returned",
    "weight": "the weight w(t)",
    "gradient": "the direction after its weight and --grad-transform",
    "losses": "a regularizer of the representation",
}
_PRECISION = "if the model runs in half precision, use --precision float32 or bfloat16"
#: what helps, by description
_REMEDIES = {
    _DESCRIPTIONS["x0"]: f"{_PRECISION}, or another --model.vae; else a lower --lr",
    _DESCRIPTIONS["direction"]: f"{_PRECISION}; else a lower guidance scale or --lr",
}
_OWN_REMEDY = "look in it for a division by zero, a logarithm or root of numbers below zero; "


class NonFiniteError(RuntimeError):
    """A value of a run is not finite.

    Attributes:
        step: number of steps done before; None if there are no steps.
        cause: what is not finite.
        inputs: tensors of the step, for the failure file.
        origin: component of one's own that the value is from, as FILE.py:Class; else empty.
    """

    def __init__(self, step: int | None, cause: str, inputs: dict[str, Tensor], origin: str = ""):
        where = "" if step is None else f"step {step}: "
        remedy = _REMEDIES.get(cause, f"{_PRECISION}; else a lower --lr")
        named = f" ({origin})" if origin else ""
        own_remedy = _OWN_REMEDY if origin else _end_of_schedule(inputs)
        super().__init__(f"{where}{cause}{named} is not finite: {own_remedy}{remedy}")
        self.step, self.cause, self.inputs, self.origin = step, cause, inputs, origin

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[Any, ...]]:
        return type(self), (self.step, self.cause, self.inputs, self.origin)


def _end_of_schedule(inputs: Mapping[str, Tensor]) -> str:
    """What helps at an end of a flow, where sigma or alpha is 0 and some methods divide by it."""
    if "t" in inputs and bool((inputs["t"] == 0).any()):
        return "at t = 0 a flow has no noise, so give --timesteps.t-min 0.02; "
    if "t" in inputs and bool((inputs["t"] == 1).any()):
        return "at t = 1 a flow has only noise, so give --timesteps.t-max 0.98; "
    return ""


def _non_finite_error(
    step: int, inputs: dict[str, Tensor], origins: Mapping[str, str]
) -> NonFiniteError:
    """Error of a step whose gradient is not finite; names the first of ``inputs`` that is not."""
    for name, description in _DESCRIPTIONS.items():
        if name in inputs and not bool(inputs[name].isfinite().all()):
            return NonFiniteError(step, description, inputs, origins.get(name, ""))
    return NonFiniteError(step, "the gradient of the parameters", inputs)


class FiniteMonitor:
    """Finds the first step whose gradient is not finite.

    A fused optimizer that is given ``found_inf`` updates nothing from that step on.

    Args:
        deferred: do not read the device at every step, as on CUDA, where that would wait for it.
            The result stays on the device with the inputs of the first bad step, until
            ``raise_if_bad``.
        origins: components of one's own, as FILE.py:Class, by the name of the tensor of a step
            that is from them.

    Attributes:
        found_inf: 1 after a bad step, else 0, on the device; None before the first step and if not
            deferred.
    """

    def __init__(self, deferred: bool, origins: Mapping[str, str] | None = None):
        self.deferred, self.origins = deferred, origins or {}
        self.found_inf: Float[Tensor, ""] | None = None
        self._bad_step: Tensor | None = None
        self._inputs: dict[str, Tensor] = {}

    def update(self, step: int, grad_norm: Float[Tensor, ""], inputs: dict[str, Tensor]) -> None:
        """Check one step.

        Args:
            step: number of steps done before.
            grad_norm: norm of the gradient of all parameters.
            inputs: tensors of the step, the same ones at each.

        Raises:
            NonFiniteError: if the norm is not finite, unless deferred.
        """
        if not self.deferred:
            if not bool(grad_norm.isfinite()):
                raise _non_finite_error(step, inputs, self.origins)
            return
        is_bad = (~grad_norm.isfinite()).float()
        if self.found_inf is None or self._changed_shapes(inputs):
            self.raise_if_bad()
            self.found_inf, self._bad_step = is_bad, torch.full_like(is_bad, step)
            self._inputs = {name: value.clone() for name, value in inputs.items()}
            return
        found_before = self.found_inf > 0
        bad_step = torch.full_like(is_bad, step) if self._bad_step is None else self._bad_step
        self._bad_step = torch.where(found_before, bad_step, float(step))
        self._inputs = {
            name: torch.where(found_before, self._inputs[name], value)
            for name, value in inputs.items()
        }
        self.found_inf = torch.maximum(self.found_inf, is_bad)

    def _changed_shapes(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether shapes differ from the last step's, as when the render resolution grows."""
        return any(self._inputs[name].shape != value.shape for name, value in inputs.items())

    def raise_if_bad(self) -> None:
        """Raise the ``NonFiniteError`` of the first bad step, if any; waits for the device."""
        if self.found_inf is not None and bool(self.found_inf):
            step = int(self._bad_step)  # type: ignore[arg-type]
            raise _non_finite_error(step, self._inputs, self.origins)


def check_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Check tensors that are about to be saved; waits for the device.

    Args:
        tensors: tensors by name; only those of a floating-point type are checked.
        step: number of steps done.

    Raises:
        NonFiniteError: names the first tensor that is not finite.
    """
    floats = {
        name: value
        for name, value in tensors.items()
        if value.is_floating_point() and value.numel()
    }
    maxima: dict[torch.device, list[Tensor]] = {}
    for value in floats.values():
        maxima.setdefault(value.device, []).append(value.detach().abs().amax().float())
    # one transfer per device
    if all(bool(torch.stack(values).isfinite().all()) for values in maxima.values()):
        return
    for name, value in floats.items():
        if not bool(value.isfinite().all()):
            raise NonFiniteError(step, f"{name} after this step", {name: value})
