"""A figure of edits: source image, true result, and the result of every method."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limbeck.graphics.export.png import to_uint8
from limbeck.leaderboard.edit_pairs import EditPairs
from limbeck.world.scene import ATTRIBUTES

_SHOWN = 8  #: pairs
_CELL, _GAP, _LEFT, _TOP = 72, 4, 110, 18
_COLORS = 160  #: few, for a small file


def draw_edit_figure(
    pairs: EditPairs, columns: Mapping[str, Float[Tensor, "n 3 h w"]]
) -> Image.Image:
    """One row for each of the first pairs, and one column per method.

    Args:
        pairs: the pairs.
        columns: one image per pair, by heading.
    """
    rows, font = min(_SHOWN, len(pairs)), ImageFont.load_default(10)
    step = _CELL + _GAP
    out = Image.new("RGB", (_LEFT + step * len(columns), _TOP + step * rows), "white")
    draw = ImageDraw.Draw(out)
    for x, (title, images) in enumerate(columns.items()):
        draw.text((_LEFT + x * step, 4), title, fill="black", font=font)
        for y, pixels in enumerate(to_uint8(images[:rows])):
            image = Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.LANCZOS)
            out.paste(image, (_LEFT + x * step, _TOP + y * step))
    for y, text in enumerate(_descriptions(pairs)[:rows]):
        draw.text((2, _TOP + y * step + _CELL // 2 - 6), text, "black", font)
    return out.quantize(_COLORS, dither=Image.Dither.NONE)


def _descriptions(pairs: EditPairs) -> list[str]:
    """What changes, as ``red to blue``."""
    column = {name: i for i, name in enumerate(ATTRIBUTES)}
    labels = zip(pairs.before.labels(), pairs.after.labels(), pairs.changed, strict=True)
    return [
        f"{ATTRIBUTES[name][old[column[name]]]} to {ATTRIBUTES[name][new[column[name]]]}"
        for old, new, name in labels
    ]
