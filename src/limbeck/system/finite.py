"""Whether every number of a run is finite: asked at every step where asking is free, else before anything is kept."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

NAMED = {"x0": "the render or its encoding", "gradient": "the direction the method answered"}


class NonFiniteError(RuntimeError):
    """A value stopped being finite. ``cause`` names it; ``inputs`` are the tensors of the step, for the failure file."""

    def __init__(self, step: int, cause: str, inputs: dict[str, Tensor]):
        super().__init__(f"step {step}: {cause} is not finite")
        self.step, self.cause, self.inputs = step, cause, inputs


def failure(step: int, inputs: dict[str, Tensor]) -> NonFiniteError:
    """The error of a step whose parameters' gradient is not finite, by the first of its ``inputs`` that is not."""
    bad = [text for key, text in NAMED.items() if not bool(inputs[key].isfinite().all())]
    return NonFiniteError(step, bad[0] if bad else "the gradient of the parameters", inputs)


class FiniteMonitor:
    """The first step whose gradient is not finite.

    Where asking means waiting for the device, as on CUDA, nothing is asked at a step (``lazy``): ``bad``, 0 or 1, stays on the
    device beside the inputs of the first bad step, and ``ask`` is called before anything is kept. A fused optimiser that is given
    ``bad`` as its ``found_inf`` moves nothing from that step on.
    """

    def __init__(self, lazy: bool):
        self.lazy = lazy
        self.bad: Float[Tensor, ""] | None = None
        self._at: Tensor | None = None
        self._inputs: dict[str, Tensor] = {}

    def see(self, step: int, norm: Float[Tensor, ""], inputs: dict[str, Tensor]) -> None:
        """Be told the norm of the gradient of all parameters; raises ``NonFiniteError`` at once unless lazy."""
        if not self.lazy:
            if not bool(norm.isfinite()):
                raise failure(step, inputs)
            return
        now = (~norm.isfinite()).float()
        if self.bad is None or any(
            self._inputs[name].shape != value.shape for name, value in inputs.items()
        ):
            self.ask()  # a change of shapes is rare: a render that grows
            self.bad, self._at, self._inputs = (
                now,
                torch.full_like(now, step),
                {k: v.clone() for k, v in inputs.items()},
            )
            return
        before = self.bad > 0
        self._at = torch.where(before, self._at, float(step))  # type: ignore[arg-type]
        self._inputs = {
            name: torch.where(before, self._inputs[name], value) for name, value in inputs.items()
        }
        self.bad = torch.maximum(self.bad, now)

    def ask(self) -> None:
        """Raise ``NonFiniteError`` of the first bad step, if there was one; waits for the device."""
        if self.bad is not None and bool(self.bad):
            raise failure(int(self._at), self._inputs)  # type: ignore[arg-type]


def check_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Raise ``NonFiniteError`` that names the first tensor which is not finite: no checkpoint may hold one. Waits for the device."""
    floats = {
        name: value
        for name, value in tensors.items()
        if value.is_floating_point() and value.numel()
    }
    if not floats:
        return
    norms = [value.detach().abs().amax().float() for value in floats.values()]
    devices = {norm.device for norm in norms}
    if all(
        bool(torch.stack([norm for norm in norms if norm.device == device]).isfinite().all())
        for device in devices
    ):
        return
    for name, value in floats.items():
        if not bool(value.isfinite().all()):
            raise NonFiniteError(step, f"{name} after this step", {name: value})
