"""Sampling of textures with mipmaps, without a gradient."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def build_mipmaps(texture: Float[Tensor, "3 h w"]) -> list[Float[Tensor, "3 u v"]]:
    """A texture at its own size, at half of it, and so on down to one texel.

    Args:
        texture: the texture.
    """
    levels = [texture]
    while max(levels[-1].shape[1:]) > 1:
        levels.append(F.avg_pool2d(levels[-1][None], 2, ceil_mode=True)[0])
    return levels


def sample_texture(
    levels: list[Float[Tensor, "3 u v"]], uv: Float[Tensor, "n 2"], level: Float[Tensor, "n"]
) -> Float[Tensor, "n 3"]:
    """Trilinear look-up in a texture that is repeated.

    Args:
        levels: the texture and its smaller versions.
        uv: coordinates from the top left corner.
        level: fractional index of the level: log2 of the texels that a pixel spans.
    """
    level = level.clamp(0, len(levels) - 1)
    out = uv.new_zeros(len(uv), 3)
    for number, texture in enumerate(levels):
        weight = (1 - (level - number).abs()).clamp_min(0)
        index = weight.nonzero().squeeze(1)
        if len(index):
            color = _bilinear(texture, uv[index])
            out = out.index_add(0, index, color * weight[index, None])
    return out


def _bilinear(texture: Float[Tensor, "3 u v"], uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    height, width = texture.shape[1:]
    position = uv * uv.new_tensor([width, height]) - 0.5
    corner = position.floor()
    (fx, fy), (x, y) = (position - corner).unbind(1), corner.long().unbind(1)
    total = uv.new_zeros(len(uv), 3)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
        texel = texture[:, (y + dy) % height, (x + dx) % width].T
        total = total + weight[:, None] * texel
    return total
