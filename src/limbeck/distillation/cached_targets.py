"""Per-particle targets, for methods that reuse a prediction for several steps."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.distillation.inputs import SetupContext


class CachedTargets:
    """The last predicted target and noise of each particle.

    Attributes:
        target: last predicted x0 ``[N, ...]``.
        kappa: last predicted noise ``[N, ...]``.
        last_update: number of the update of each particle ``[N]``, -1 before the first; on the
            CPU, as particle indices are.

    Args:
        setup: context of the run.
        lasting: whether a target or noise is used in a later step than its own.

    Raises:
        ValueError: if it is, and cameras change from step to step.
    """

    def __init__(self, setup: SetupContext, lasting: bool = True):
        if lasting and setup.has_cameras:
            raise ValueError(
                "what is kept for later steps was predicted for another camera: in 3D use kappa "
                "inverted and refresh_every 1"
            )
        setup.require_lasting_samples("this method keeps a target")
        self.target, self.kappa = torch.zeros_like(setup.x0), torch.zeros_like(setup.x0)
        self.last_update = torch.full((setup.particles,), -1, dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        return {"target": self.target, "kappa": self.kappa, "last_update": self.last_update}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.target, self.kappa = tensors["target"].to(self.target), tensors["kappa"].to(self.kappa)
        self.last_update = tensors["last_update"].to(self.last_update)
