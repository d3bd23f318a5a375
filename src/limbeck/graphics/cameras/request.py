"""What a representation is asked to render."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera


@dataclass(frozen=True)
class RenderRequest:
    """What is looked at: the particle of each row, and for things that have sides the camera of each row.

    rng: draws what is random in a render under training (sample places, light, background); None for a look that repeats.
    progress: share of the run that is done, for what changes with it.
    """

    particle: Int[Tensor, "b"]
    camera: Camera | None = None
    rng: torch.Generator | None = None
    progress: float = 1.0

    def __len__(self) -> int:
        return len(self.particle)

    def __getitem__(self, rows: Tensor | slice) -> RenderRequest:
        return RenderRequest(
            self.particle[rows],
            None if self.camera is None else self.camera[rows],
            self.rng,
            self.progress,
        )
