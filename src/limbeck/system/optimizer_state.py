"""Fused optimizers, and their state as named tensors, for checkpoints without pickle."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def can_fuse(parameters: Iterable[Tensor]) -> bool:
    """Return whether torch has an optimizer in one kernel for these parameters.

    With many small tensors on a CPU it takes a quarter of the time. On CUDA, ``found_inf`` on the
    device can tell it not to update.
    """
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer state by parameter number and name, such as ``0.exp_avg``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{i}.{name}": value
        for i, p in enumerate(parameters)
        for name, value in optimizer.state[p].items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what ``optimizer_tensors`` returned.

    Raises:
        ValueError: if it was returned for parameters of other shapes.
    """
    by_parameter: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        by_parameter.setdefault(int(number), {})[name] = value
    parameters = [
        (p, group.get("fused")) for group in optimizer.param_groups for p in group["params"]
    ]
    for i, (p, fused) in enumerate(parameters):
        for name, value in by_parameter.get(i, {}).items():
            if value.ndim and value.shape != p.shape:
                raise ValueError(
                    f"{name} of parameter {i} has shape {list(value.shape)}, not {list(p.shape)}: "
                    "the checkpoint was written by another version"
                )
        # only a fused optimizer has its step count on the device
        optimizer.state[p] = {
            name: value.clone() if name == "step" and not fused else value.to(p.device).clone()
            for name, value in by_parameter.get(i, {}).items()
        }
