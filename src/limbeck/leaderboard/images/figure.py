"""Figures of leaderboards: a grid of images with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from limbeck.leaderboard.execution.image_results import CellResult
from limbeck.leaderboard.images.conduct import RowCells
from limbeck.leaderboard.images.protocol import Leaderboard
from limbeck.leaderboard.report.image_grid import draw_grid
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import render_scenes

_SHOWN = 10  #: captions


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
