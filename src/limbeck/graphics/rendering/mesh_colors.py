"""Colors that a file gives a mesh: textures and vertex colors at points of its faces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.graphics.geometry.mesh_file import MeshPart
from limbeck.graphics.rendering.texture_sampling import build_mipmaps, sample_texture


class MeshFileColors(nn.Module):
    """Textures and vertex colors of the parts of a mesh.

    Args:
        parts: the mesh; its faces are numbered through all parts.
    """

    corner_uv: Tensor
    corner_colors: Tensor
    part: Tensor
    texel_scale: Tensor

    def __init__(self, parts: Sequence[MeshPart]):
        super().__init__()
        zeros = [torch.zeros(len(part.faces), 3, 2) for part in parts]
        uv = torch.cat(
            [z if p.uv is None else p.uv[p.faces] for p, z in zip(parts, zeros, strict=True)]
        )
        colors = torch.cat([part.colors[part.faces] for part in parts])
        lengths = torch.tensor([len(part.faces) for part in parts])
        owner = torch.arange(len(parts)).repeat_interleave(lengths)
        self._mipmaps: list[list[str]] = []
        sizes = []
        for number, part in enumerate(parts):
            levels = [] if part.texture is None else build_mipmaps(part.texture)
            self._mipmaps.append([f"texture_{number}_{level}" for level in range(len(levels))])
            for name, texture in zip(self._mipmaps[-1], levels, strict=True):
                self.register_buffer(name, texture, persistent=False)
            sizes.append(levels[0].shape[1] * levels[0].shape[2] if levels else 1)
        a, b, c = uv.double().unbind(1)
        side, other = b - a, c - a
        area = (side[:, 0] * other[:, 1] - side[:, 1] * other[:, 0]).abs()
        texels = area * torch.tensor(sizes, dtype=torch.float64)[owner]
        for name, value in (
            ("corner_uv", uv),
            ("corner_colors", colors),
            ("part", owner),
            ("texel_scale", texels.float()),
        ):
            self.register_buffer(name, value, persistent=False)

    @torch.no_grad()
    def forward(
        self,
        face: Int[Tensor, "n"],
        weights: Float[Tensor, "n 3"],
        pixels: Float[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n 3"]:
        """Return the colors of points of faces.

        Args:
            face: number of the face of each point.
            weights: barycentric weights.
            pixels: twice the area of the face in pixels, for mipmaps; None for full resolution.
        """
        color = (self.corner_colors[face] * weights[..., None]).sum(1)
        uv = (self.corner_uv[face] * weights[..., None]).sum(1)
        level = torch.zeros_like(uv[:, 0])
        if pixels is not None:
            level = 0.5 * (self.texel_scale[face] / pixels.clamp_min(1e-9)).clamp_min(1e-9).log2()
        owner = self.part[face]
        for number, names in enumerate(self._mipmaps):
            index = (owner == number).nonzero().squeeze(1)
            if names and len(index):
                levels = [self.get_buffer(name) for name in names]
                texture = sample_texture(levels, uv[index], level[index])
                color = color.index_copy(0, index, color[index] * texture)
        return color.clamp(0, 1)
