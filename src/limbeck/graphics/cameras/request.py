"""What a representation is asked to render."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.system.random import RowRandom


@dataclass(frozen=True)
class RenderRequest:
    """Particles to render and, for 3D representations, the camera of each row.

    Attributes:
        particle: ``[B]`` particle index of each row.
        camera: one camera per row. None for 2D representations.
        rng: random numbers of the rows of a training render (ray jitter, light, background). None
            for a deterministic evaluation render.
        progress: fraction of training that is done, for schedules.
        size: height and width of a deterministic 3D render in pixels; None for those of the model.
            Renders in latent space keep theirs.
        normals: whether the normals of a deterministic 3D render are needed; a representation whose
            normals cost much leaves them out otherwise.
    """

    particle: Int[Tensor, "b"]
    camera: Camera | None = None
    rng: RowRandom | None = None
    progress: float = 1.0
    size: tuple[int, int] | None = None
    normals: bool = True

    def __len__(self) -> int:
        return len(self.particle)

    def __getitem__(self, rows: Tensor | slice) -> RenderRequest:
        camera = None if self.camera is None else self.camera[rows]
        rng = None if self.rng is None else self.rng[rows]
        particle = self.particle[rows]
        return RenderRequest(particle, camera, rng, self.progress, self.size, self.normals)

    def generator(self, purpose: str) -> torch.Generator | None:
        """Generator of the particle of the first row; None for an evaluation render.

        Args:
            purpose: what it is for; the same purpose gives the same numbers again.
        """
        return None if self.rng is None else self.rng.generator(purpose)
