"""Colours in space: of every point, by an encoding and a decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.graphics.fields.decoders import Decoder
from limbeck.graphics.fields.encodings.base import Encoding

FIT_BATCH_SIZE = 2048  #: that colours are compared at in a step of a fit


class ColorField(nn.Module):
    """RGB of points of the box [-reach, reach]^3, for one particle."""

    def __init__(
        self, encoding: Encoding, decoder: Decoder, reach: float, generator: torch.Generator
    ):
        super().__init__()
        self.encoded, self.reach = encoding.build(generator), reach
        self.decoder = decoder.build(self.encoded.width, generator, 3)

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n 3"]:
        return self.decoder(self.encoded((points / self.reach).clamp(-1, 1), progress)).sigmoid()


def fit_color_field(colour: ColorField, goal: Callable[[Tensor], Tensor], vertices: Float[Tensor, "v 3"], cell: float,
          rates: tuple[float, float], steps: int, generator: torch.Generator) -> None:  # fmt: skip
    """Fit ``colour`` to the RGB that ``goal`` answers of points within about half a cell of the vertices.

    rates: of the encoding and of the decoder. Adam on the squared error, the rates falling as a cosine.
    """
    colour.requires_grad_(True)
    parts = zip((colour.encoded, colour.decoder), rates, strict=True)
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in parts]
    adam = torch.optim.Adam(
        [group for group in groups if group["params"]], betas=(0.9, 0.99), eps=1e-15
    )
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(steps, 1))
    for _ in range(steps):
        pick = torch.randint(len(vertices), (FIT_BATCH_SIZE,), generator=generator).to(vertices.device)
        points = vertices[pick] + cell / 2 * torch.randn(FIT_BATCH_SIZE, 3, generator=generator).to(
            vertices
        )
        with torch.no_grad():
            wanted = goal(points)
        adam.zero_grad(set_to_none=True)
        (colour(points) - wanted).square().mean().backward()
        adam.step()
        fall.step()
    adam.zero_grad(set_to_none=True)
