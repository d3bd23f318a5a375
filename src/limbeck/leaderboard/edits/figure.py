"""A figure of edits: source image, true result, and the result of every method."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limbeck.leaderboard.edits.pairs import EditPairs
from limbeck.leaderboard.report.image_grid import draw_grid
from limbeck.world.scene import ATTRIBUTES

_SHOWN = 8  #: pairs


def draw_edit_figure(
    pairs: EditPairs, columns: Mapping[str, Float[Tensor, "n 3 h w"]]
) -> Image.Image:
    """One row for each of the first pairs, and one column per method.

    Args:
        pairs: the pairs.
        columns: one image per pair, by heading.
    """
    shown = torch.stack([images[:_SHOWN] for images in columns.values()], dim=1)
    return draw_grid(shown, _descriptions(pairs)[:_SHOWN], list(columns))


def _descriptions(pairs: EditPairs) -> list[str]:
    """What changes, as ``red to blue``."""
    column = {name: i for i, name in enumerate(ATTRIBUTES)}
    labels = zip(pairs.before.labels(), pairs.after.labels(), pairs.changed, strict=True)
    return [
        f"{ATTRIBUTES[name][old[column[name]]]} to {ATTRIBUTES[name][new[column[name]]]}"
        for old, new, name in labels
    ]
