"""State of an optimizer as named tensors, for checkpoints without pickle."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Restore what ``optimizer_tensors`` returned."""
    by_parameter: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        by_parameter.setdefault(int(number), {})[name] = value
    parameters = [
        (p, group.get("fused")) for group in optimizer.param_groups for p in group["params"]
    ]
    for i, (p, fused) in enumerate(parameters):
        # only a fused optimizer has its step count on the device
        optimizer.state[p] = {
            name: value.clone() if name == "step" and not fused else value.to(p.device).clone()
            for name, value in by_parameter.get(i, {}).items()
        }
