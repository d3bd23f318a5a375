"""What every particle is on its way to, for methods that keep a prediction for several steps."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.distillation.inputs import SetupContext


class CachedTargets:
    """Of each particle: the picture it is on its way to, the noise last predicted, and when that was; -1 for never."""

    def __init__(self, start: SetupContext):
        self.target, self.kappa = torch.zeros_like(start.x0), torch.zeros_like(start.x0)
        self.turn = torch.full(
            (start.particles,), -1, dtype=torch.int64
        )  # on the CPU, as views are

    def tensors(self) -> dict[str, Tensor]:
        return {"target": self.target, "kappa": self.kappa, "turn": self.turn}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.target, self.kappa = tensors["target"].to(self.target), tensors["kappa"].to(self.kappa)
        self.turn = tensors["turn"].to(self.turn)
