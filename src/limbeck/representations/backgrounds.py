"""The backgrounds behind the rows of a render."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.graphics.cameras.request import RenderRequest


def render_backgrounds(
    backgrounds: nn.ModuleList, directions: Float[Tensor, "b h w 3"], request: RenderRequest
) -> Float[Tensor, "b 3 h w"]:
    """Render the background of each row, with the module of its particle.

    Args:
        backgrounds: one ``BackgroundModule`` per particle.
        directions: unit directions of the rays.
        request: particles, source of randomness and progress.
    """
    rows: dict[int, Tensor] = {}
    for particle in dict.fromkeys(request.particle.tolist()):
        index = (request.particle == particle).nonzero().squeeze(1).tolist()
        generator = request[torch.tensor(index)].generator("background")
        colors = backgrounds[particle](directions[index], generator, request.progress)
        rows |= dict(zip(index, colors, strict=True))
    return torch.stack([rows[i] for i in range(len(request))]).permute(0, 3, 1, 2)
