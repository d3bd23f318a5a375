"""Figures of leaderboards: a grid of images with labels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limbeck.graphics.export.png import to_uint8

_CELL, _GAP, _LEFT, _LINE = 72, 4, 110, 11
_TITLE_WIDTH = 14  #: characters of a line above a column
_COLORS = 160  #: few, for a small file


def draw_grid(
    images: Float[Tensor, "rows columns 3 h w"], labels: Sequence[str], titles: Sequence[str]
) -> Image.Image:
    """A grid of images, of few colors for a small file.

    Args:
        images: the images.
        labels: texts left of the rows.
        titles: texts above the columns; long ones are broken into lines.
    """
    rows, columns = images.shape[:2]
    font, step = ImageFont.load_default(10), _CELL + _GAP
    lines = [textwrap.wrap(title, _TITLE_WIDTH) for title in titles]
    top = _LINE * max(len(own) for own in lines) + 7
    out = Image.new("RGB", (_LEFT + step * columns, top + step * rows), "white")
    draw = ImageDraw.Draw(out)
    for x, own in enumerate(lines):
        for i, line in enumerate(own):
            draw.text((_LEFT + x * step, 2 + i * _LINE), line, "black", font)
    for y, label in enumerate(labels):
        draw.text((2, top + y * step + _CELL // 2 - 6), label, "black", font)
        for x, pixels in enumerate(to_uint8(images[y])):
            image = Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            out.paste(image, (_LEFT + x * step, top + y * step))
    return out.quantize(_COLORS, dither=Image.Dither.NONE)
