"""Figures of leaderboards: a grid of images with labels."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limbeck.graphics.export.png import to_uint8
from limbeck.leaderboard.cells import CellResult
from limbeck.leaderboard.conduct import RowCells
from limbeck.leaderboard.protocol import Leaderboard
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import render_scenes

_SHOWN = 10  #: captions
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


def draw_leaderboard_figure(
    board: Leaderboard, rows: Mapping[str, RowCells], order: Sequence[str], out: Path
) -> Image.Image:
    """True renders of the first captions, and below them the first image of each row.

    Args:
        board: the leaderboard.
        rows: computed rows at equal passes, by name.
        order: names of the rows from top to bottom; those that are not in ``rows`` are left out.
        out: folder of the leaderboard.
    """
    names = [name for name in order if name in rows]
    cells = [rows[name].cells[0] for name in names]
    prompts = cells[0].prompts[:_SHOWN]
    scenes, _ = board.scenes()
    images = [images_to_tensor(render_scenes(scenes[: len(prompts)]))]
    for cell in cells:
        found = CellResult.load(out / cell.path).images[:: cell.images]
        images.append(found[: len(prompts)].float() / 255)
    return draw_grid(torch.stack(images), ["renders", *names], prompts)
