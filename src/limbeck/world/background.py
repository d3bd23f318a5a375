"""The backgrounds of the embedded world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.fields.background import Background, BackgroundModule
from limbeck.world.scene import GROUND, SKY


class _World(BackgroundModule):
    def __init__(self, which: int):
        super().__init__()
        self.which = which

    def forward(self, ahead: Float[Tensor, "*n 3"], rng: torch.Generator | None = None, progress: float = 1.0
                ) -> Float[Tensor, "*n 3"]:  # fmt: skip
        if ahead.ndim != 4:
            raise ValueError(
                f"the world's backgrounds go by rows of pictures: directions [b, h, w, 3], not {list(ahead.shape)}"
            )
        views, height = ahead.shape[:2]
        drawn = rng is not None and self.which < 0
        place = (
            torch.randint(len(SKY), (views,), generator=rng)
            if drawn
            else torch.full((views,), max(self.which, 0))
        )
        top, bottom = torch.from_numpy(SKY), torch.from_numpy(GROUND)
        down = ((torch.arange(height) + 0.5) / height)[:, None, None]
        return (
            torch.lerp(top[place][:, None, None], bottom[place][:, None, None], down)
            .to(ahead)
            .expand_as(ahead)
        )


@dataclass(frozen=True)
class WorldBackground(Background):
    """What the embedded model knows behind its objects: from top to bottom one colour turns into another.

    which: 0 sky, 1 grass, 2 sand, 3 night, 4 snow, 5 brick; -1 for one drawn anew for every view in training, and sky to look at.
    """

    which: int = -1

    def __post_init__(self) -> None:
        if not -1 <= self.which < len(SKY):
            raise ValueError(f"which is one of -1 to {len(SKY) - 1}, not {self.which}")

    def build(self, generator: torch.Generator) -> BackgroundModule:
        return _World(self.which)
