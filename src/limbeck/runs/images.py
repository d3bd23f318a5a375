"""Image files of a run folder: grids, heat maps with a color bar, animations."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limbeck.graphics.export.png import to_uint8
from limbeck.system.files import replacing
from limbeck.system.notices import notify

COLORBAR_WIDTH = 64  #: width of the color bar at the right of a heat map, in pixels
VIEW_NAMES = ("front", "right side", "back", "left side")
"""Fixed views of a 3D particle in images and contact sheets, in this order; left and right as
seen from the front."""
SCATTER_FILE = "particles.png"  #: particles as points, in a run folder without images
WEBP_MAX_SIDE = 16383  #: largest width and height of a WebP image
_MAX_ANIMATION_PIXELS = 1 << 28  #: of all frames together, which are in memory at once
_RECORDED = re.compile(r"step-(\d+)(?:-([a-z0-9]+))?\.png")  #: step and kind
_EMPTY_GRAY = 0.5  #: gray level of grid cells without an image
_LONE_COLUMNS = 8  #: images per row where prompts have one image each


def image_grid(images: Float[Tensor, "n 3 h w"], columns: int, gap: int = 2) -> Image.Image:
    """Arrange images row by row, without resampling.

    Args:
        images: values in [0, 1].
        columns: images per row.
        gap: transparent pixels between images.

    Returns:
        An RGBA image; RGB if there is only one image.
    """
    cells = to_uint8(images)
    n, h, w, _ = cells.shape
    if n == 1:
        return Image.fromarray(cells[0])
    rows = -(-n // columns)
    sheet = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, 4), np.uint8)
    sheet[..., :3] = 255  # white in viewers that ignore transparency
    for i, cell in enumerate(cells):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[y : y + h, x : x + w, :3], sheet[y : y + h, x : x + w, 3] = cell, 255
    return Image.fromarray(sheet)


def scatter_images(
    images: Float[Tensor, "b 3 h w"], particle: Sequence[int], total: int
) -> Float[Tensor, "n 3 h w"]:
    """Place the images of some particles among all particles; the others are gray.

    Args:
        images: one image per entry of ``particle``.
        particle: particle indices.
        total: number of particles.
    """
    out = torch.full((total, *images.shape[1:]), _EMPTY_GRAY)
    out[list(particle)] = images.detach().float().cpu()
    return out


def heat_map(maps: Float[Tensor, "n h w"], top: float) -> Float[Tensor, "n 3 h w"]:
    """Color scalar maps with viridis from 0 to ``top``, clipped, on a square-root scale.

    The square root keeps late maps legible, as gradients fall tenfold over a run.
    """
    level = (maps.detach().double().cpu() / top).clamp(0, 1).sqrt().numpy()
    return torch.from_numpy(colormaps["viridis"](level)[..., :3]).permute(0, 3, 1, 2).float()


def heat_map_grid(maps: Float[Tensor, "n 3 h w"], columns: int, top: float) -> Image.Image:
    """Arrange colored maps in a grid and append a labeled color bar.

    Rows are enlarged to at least 128 pixels so that the labels of the bar are legible.

    Args:
        maps: output of ``heat_map``.
        columns: maps per row.
        top: value at the top of the color scale.
    """
    sheet = image_grid(maps, columns)
    factor = max(1, -(-128 // maps.shape[-2]))
    size = (sheet.width * factor, sheet.height * factor)
    sheet = sheet.resize(size, Image.Resampling.NEAREST)
    out = Image.new("RGBA", (sheet.width + COLORBAR_WIDTH, sheet.height), "white")
    out.paste(sheet, (0, 0))
    ramp = colormaps["viridis"](np.linspace(1, 0, sheet.height))[:, None, :3]
    bar = np.repeat((ramp * 255).round().astype(np.uint8), 12, 1)
    out.paste(Image.fromarray(bar), (sheet.width + 8, 0))
    draw, font, left = ImageDraw.Draw(out), ImageFont.load_default(10), sheet.width + 24
    ticks = [(top, 1, "la"), (top / 4, sheet.height // 2, "lm"), (0.0, sheet.height - 1, "ld")]
    for value, y, anchor in ticks:
        draw.text((left, y), f"{value:.2g}", fill="black", font=font, anchor=anchor)
    return out


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically, so that a killed run leaves no partial file."""
    with replacing(path) as part:
        image.save(part, "PNG")


def recorded_images(folder: Path) -> dict[str, dict[int, Path]]:
    """Images that a run has recorded, by kind and by step, in ascending order of the steps.

    The order of the names is another one from step 100,000 on, which has a sixth digit.

    Args:
        folder: run folder.

    Returns:
        Files by step for each kind, such as ``x0`` or ``gradient``; of the particles themselves the
        kind is empty.
    """
    files = (folder / "images").glob("step-*.png")
    found = [(match, path) for path in files if (match := _RECORDED.fullmatch(path.name))]
    images: dict[str, dict[int, Path]] = {}
    for step, kind, path in sorted((int(match[1]), match[2] or "", path) for match, path in found):
        images.setdefault(kind, {})[step] = path
    return images


def particle_stems(count: int, per_prompt: int) -> list[str]:
    """File stems ``PROMPT-PARTICLE`` of particles sorted by prompt.

    Args:
        count: number of particles.
        per_prompt: particles per prompt.
    """
    return [f"{i // per_prompt:02d}-{i % per_prompt:02d}" for i in range(count)]


def columns_of_prompts(count: int, per_prompt: int) -> int:
    """Images per row of a sheet: those of a prompt, or of many prompts with one each, 8.

    Args:
        count: number of images.
        per_prompt: images per prompt.
    """
    return _LONE_COLUMNS if per_prompt == 1 and count > _LONE_COLUMNS else per_prompt


def save_final_images(
    folder: Path, images: Float[Tensor, "n 3 h w"], per_prompt: int, views: Sequence[str] = ()
) -> None:
    """Write ``final.png``, a contact sheet, and ``final/PROMPT-PARTICLE[-VIEW].png``.

    Args:
        folder: run folder.
        images: values in [0, 1], sorted by prompt, particle and view.
        per_prompt: images per prompt.
        views: names of the views of each particle; empty for 2D particles. The contact sheet has
            one row per particle if there are views, else ``columns_of_prompts``. In file names,
            spaces become hyphens.
    """
    (folder / "final").mkdir(parents=True, exist_ok=True)
    columns = len(views) or columns_of_prompts(len(images), per_prompt)
    save_png(image_grid(images, columns), folder / "final.png")
    num_views = max(len(views), 1)
    stems = particle_stems(len(images) // num_views, per_prompt // num_views)
    if views:
        stems = [f"{stem}-{view.replace(' ', '-')}" for stem in stems for view in views]
    for stem, image in zip(stems, images, strict=True):
        save_png(image_grid(image[None], 1), folder / "final" / f"{stem}.png")


def animation_size(size: tuple[int, int], num_frames: int, min_width: int) -> tuple[int, int]:
    """Width and height of an animation: enlarged by a whole factor, or shrunk to fit.

    Args:
        size: width and height of a frame.
        num_frames: number of frames.
        min_width: smaller frames are enlarged to at least this width.
    """
    width, height = size
    factor = max(1, -(-min_width // width))
    while factor > 1 and _shrinking(factor * width, factor * height, num_frames) < 1:
        factor -= 1
    width, height = factor * width, factor * height
    scale = _shrinking(width, height, num_frames)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _shrinking(width: int, height: int, num_frames: int) -> float:
    """Factor, at most 1, by which frames have to be shrunk."""
    by_side = WEBP_MAX_SIDE / max(width, height)
    by_memory = math.sqrt(_MAX_ANIMATION_PIXELS / (width * height * num_frames))
    return min(1.0, by_side, by_memory)


def save_animation(
    frames: Sequence[Path], path: Path, seconds: float = 4.0, min_width: int = 256
) -> None:
    """Write PNG files as an animated WebP that holds its last frame.

    Frames that are too large for WebP, or for the memory together, are shrunk with a notice.

    Args:
        frames: PNG files of one size.
        path: file to write.
        seconds: duration without the hold at the end.
        min_width: smaller frames are enlarged to at least this width, in pixels.
    """
    with Image.open(frames[0]) as first:
        size = animation_size(first.size, len(frames), min_width)
        if size[0] < first.width:
            notify(
                f"{path} is shrunk from {first.width} x {first.height} to {size[0]} x {size[1]} "
                f"pixels: WebP has at most {WEBP_MAX_SIDE:,} per side, and all frames share "
                f"{_MAX_ANIMATION_PIXELS >> 20} million"
            )
            filtering = Image.Resampling.BOX
        else:
            filtering = Image.Resampling.NEAREST
    sheets = []
    for frame in frames:
        with Image.open(frame) as sheet:
            sheets.append(sheet.convert("RGBA").resize(size, filtering))
    duration = max(int(1000 * seconds / len(sheets)), 40)
    options = {"duration": [duration] * (len(sheets) - 1) + [2000], "loop": 0, "quality": 85}
    with replacing(path) as part:
        sheets[0].save(part, "WEBP", save_all=True, append_images=sheets[1:], **options)
