"""Color fields: RGB of points in space, from an encoding and a decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.graphics.fields.decoders import Decoder
from limbeck.graphics.fields.encodings.base import Encoding

_FIT_BATCH_SIZE = 2048  #: points compared in one step of ``fit_color_field``


class ColorField(nn.Module):
    """RGB of points of the box [-bound, bound]^3, for one particle.

    Args:
        encoding: options of the encoding.
        decoder: options of the decoder.
        bound: half the side of the box; points outside are clamped to it.
        generator: source of the initial parameters.
    """

    def __init__(
        self, encoding: Encoding, decoder: Decoder, bound: float, generator: torch.Generator
    ):
        super().__init__()
        self.encoding, self.bound = encoding.build(generator), bound
        self.decoder = decoder.build(self.encoding.num_features, generator, 3)

    def forward(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n 3"]:
        return self.logits(points, progress).sigmoid()

    def logits(self, points: Float[Tensor, "n 3"], progress: float = 1.0) -> Float[Tensor, "n 3"]:
        """Return what the sigmoid is taken of.

        Args:
            points: points in world space.
            progress: fraction of training that is done.
        """
        features = self.encoding((points / self.bound).clamp(-1, 1), progress)
        return self.decoder(features)


def fit_color_field(
    field: ColorField,
    target: Callable[[Tensor], Tensor],
    vertices: Float[Tensor, "v 3"],
    cell_size: float,
    lrs: tuple[float, float],
    steps: int,
    generator: torch.Generator,
) -> None:
    """Fit a color field near a surface by Adam on the squared error, with a cosine schedule.

    Args:
        field: field to fit, in place.
        target: function from points ``[N, 3]`` to RGB ``[N, 3]``.
        vertices: surface points; the fit samples within about half a cell of them.
        cell_size: length that sets the spread of the samples around the vertices.
        lrs: peak learning rates of the encoding and of the decoder.
        steps: number of optimizer steps.
        generator: source of the samples.
    """
    field.requires_grad_(True)
    modules = zip((field.encoding, field.decoder), lrs, strict=True)
    groups = [{"params": list(module.parameters()), "lr": lr} for module, lr in modules]
    optimizer = torch.optim.Adam(
        [group for group in groups if group["params"]], betas=(0.9, 0.99), eps=1e-15
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    size = _FIT_BATCH_SIZE
    for _ in range(steps):
        index = torch.randint(len(vertices), (size,), generator=generator).to(vertices.device)
        offset = torch.randn(size, 3, generator=generator).to(vertices)
        points = vertices[index] + cell_size / 2 * offset
        with torch.no_grad():
            rgb = target(points)
        optimizer.zero_grad(set_to_none=True)
        (field(points) - rgb).square().mean().backward()
        optimizer.step()
        scheduler.step()
    optimizer.zero_grad(set_to_none=True)
