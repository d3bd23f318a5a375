"""Colours in space: of every point, by an encoding and a small network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.encoding import Encoding


class Colour(nn.Module):
    """RGB of points: an encoding and a network of one hidden layer. It begins grey."""

    def __init__(self, encoding: Encoding, width: int, bound: float, generator: torch.Generator):
        super().__init__()
        self.encoded, self.bound = encoding.build(generator), bound
        # on "meta" nothing is drawn, of which a layer would draw from the global state
        first, last = (nn.Linear(a, b, device="meta").to_empty(device="cpu") for a, b in ((self.encoded.width, width), (width, 3)))
        for layer in (first, last):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        self.network = nn.Sequential(first, nn.ReLU(), last, nn.Sigmoid())

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n 3"]:
        return self.network(self.encoded((points / self.bound).clamp(-1, 1), progress))


def paint(colour: Colour, goal: Callable[[Tensor], Tensor], vertices: Float[Tensor, "v 3"], cell: float,
          rates: tuple[float, float], steps: int, generator: torch.Generator) -> None:  # fmt: skip
    """Fit ``colour`` to the RGB that ``goal`` answers of points within about half a cell of the vertices.

    rates: of the encoding and of the network. Adam on the squared error, the rates falling as a cosine.
    """
    colour.requires_grad_(True)
    parts = zip((colour.encoded, colour.network), rates, strict=True)
    adam = torch.optim.Adam([{"params": list(part.parameters()), "lr": rate} for part, rate in parts], betas=(0.9, 0.99), eps=1e-15)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(steps, 1))
    for _ in range(steps):
        pick = torch.randint(len(vertices), (4096,), generator=generator).to(vertices.device)
        points = vertices[pick] + cell / 2 * torch.randn(4096, 3, generator=generator).to(vertices)
        with torch.no_grad():
            wanted = goal(points)
        adam.zero_grad(set_to_none=True)
        (colour(points) - wanted).square().mean().backward()
        adam.step()
        fall.step()
    adam.zero_grad(set_to_none=True)
