"""An optimiser's memory as named tensors, for checkpoints without pickle."""

from __future__ import annotations

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory by parameter number and name."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{i}.{k}": v
        for i, p in enumerate(parameters)
        for k, v in optimizer.state[p].items()
        if isinstance(v, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` returned."""
    parameters = [
        (p, group.get("fused")) for group in optimizer.param_groups for p in group["params"]
    ]
    for i, (p, fused) in enumerate(parameters):
        # a fused optimiser counts its steps on the device
        memory = {k.split(".", 1)[1]: v for k, v in tensors.items() if k.split(".", 1)[0] == str(i)}
        optimizer.state[p] = {
            k: v.clone() if k == "step" and not fused else v.to(p.device).clone()
            for k, v in memory.items()
        }
