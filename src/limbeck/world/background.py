"""The backgrounds of the embedded model's images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.fields.background import Background, BackgroundModule
from limbeck.world.scene import GROUND_COLORS, SKY_COLORS


class _WorldBackgroundModule(BackgroundModule):
    def __init__(self, index: int, shared: bool):
        super().__init__()
        self.index, self.shared = index, shared

    def forward(
        self,
        directions: Float[Tensor, "*n 3"],
        rng: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> Float[Tensor, "*n 3"]:
        if directions.ndim != 4:
            raise ValueError(
                "a world background varies over the rows of images and takes directions "
                f"[b, h, w, 3], not {list(directions.shape)}"
            )
        views, height = directions.shape[:2]
        if rng is not None and self.index < 0:
            count = 1 if self.shared else views
            index = torch.randint(len(SKY_COLORS), (count,), generator=rng).expand(views)
        else:
            index = torch.full((views,), max(self.index, 0))
        top = torch.from_numpy(SKY_COLORS)[index][:, None, None]
        bottom = torch.from_numpy(GROUND_COLORS)[index][:, None, None]
        fraction = ((torch.arange(height) + 0.5) / height)[:, None, None]
        return torch.lerp(top, bottom, fraction).to(directions).expand_as(directions)


@dataclass(frozen=True)
class WorldBackground(Background):
    """A vertical color gradient, the background that the embedded model knows.

    Attributes:
        index: 0 sky, 1 grass, 2 sand, 3 night, 4 snow, 5 brick. -1: random for every training view,
            and sky in evaluation renders.
        shared: draw one background for all training views of a step, as a model of several views of
            one object expects them.
        lr_scale: unused, since nothing is learned.
    """

    index: int = -1
    shared: bool = False

    def __post_init__(self) -> None:
        if not -1 <= self.index < len(SKY_COLORS):
            raise ValueError(f"index must be in [-1, {len(SKY_COLORS) - 1}], not {self.index}")

    def build(self, generator: torch.Generator) -> BackgroundModule:
        return _WorldBackgroundModule(self.index, self.shared)
