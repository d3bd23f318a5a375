"""Pictures on disk: grids of images, heat maps on a fixed scale with a colour bar, films."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from limbeck.graphics.export.png import to_bytes

BAR = 64  #: width of the colour bar at the right of a heat map, in pixels
SEEN = (
    "front",
    "right side",
    "back",
    "left side",
)  #: the sides shown of what has some, right and left as seen from the front
BLANK = 0.5  #: grey of cells nothing was drawn for




def grid(images: Float[Tensor, "n 3 h w"], columns: int, gap: int = 2) -> Image.Image:
    """Images row by row, ``columns`` to a row, ``gap`` transparent pixels between; the pixels are as they are. One alone is RGB."""
    cells = to_bytes(images)
    n, h, w, _ = cells.shape
    if n == 1:
        return Image.fromarray(cells[0])
    rows = -(-n // columns)
    sheet = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, 4), np.uint8)
    sheet[..., :3] = 255  # white, where a viewer knows no transparency
    for i, cell in enumerate(cells):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        sheet[y : y + h, x : x + w, :3], sheet[y : y + h, x : x + w, 3] = cell, 255
    return Image.fromarray(sheet)


def spread(
    images: Float[Tensor, "b 3 h w"], view: Sequence[int], total: int
) -> Float[Tensor, "n 3 h w"]:
    """The images of particles ``view`` at their places among ``total``, grey elsewhere."""
    out = torch.full((total, *images.shape[1:]), BLANK)
    out[list(view)] = images.detach().float().cpu()
    return out


def heat(maps: Float[Tensor, "n h w"], top: float) -> Float[Tensor, "n 3 h w"]:
    """Viridis from 0 to ``top`` on a square-root scale, since gradients fall tenfold in a run; more shows as ``top``."""
    level = (maps.detach().double().cpu() / top).clamp(0, 1).sqrt().numpy()
    return torch.from_numpy(colormaps["viridis"](level)[..., :3]).permute(0, 3, 1, 2).float()


def heat_sheet(maps: Float[Tensor, "n 3 h w"], columns: int, top: float) -> Image.Image:
    """A grid of ``heat`` pictures, a row enlarged to at least 128 pixels so that the bar is legible, and the bar with numbers."""
    sheet = grid(maps, columns)
    factor = max(1, -(-128 // maps.shape[-2]))
    sheet = sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST)
    out = Image.new("RGBA", (sheet.width + BAR, sheet.height), "white")
    out.paste(sheet, (0, 0))
    ramp = (
        (colormaps["viridis"](np.linspace(1, 0, sheet.height))[:, None, :3] * 255)
        .round()
        .astype(np.uint8)
    )
    out.paste(Image.fromarray(np.repeat(ramp, 12, 1)), (sheet.width + 8, 0))
    draw, font, left = ImageDraw.Draw(out), ImageFont.load_default(10), sheet.width + 24
    for value, y, anchor in (
        (top, 1, "la"),
        (top / 4, sheet.height // 2, "lm"),
        (0.0, sheet.height - 1, "ld"),
    ):
        draw.text((left, y), f"{value:.2g}", fill="black", font=font, anchor=anchor)
    return out


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG in one move, so that a killed run leaves no half picture."""
    part = path.with_name(path.name + ".part")
    picture.save(part, "PNG")
    os.replace(part, path)


def final_names(count: int, each: int) -> list[str]:
    """PROMPT-PARTICLE, the name of the files of each of ``count`` pictures sorted by prompt, ``each`` of them for every one."""
    return [f"{i // each:02d}-{i % each:02d}" for i in range(count)]


def save_finals(
    folder: Path, images: Float[Tensor, "n 3 h w"], each: int, sides: Sequence[str] = ()
) -> None:
    """final.png, a row per prompt, and final/PROMPT-PARTICLE.png of pictures sorted by prompt, ``each`` of them for every one.

    sides: names of those that every particle is shown from, picture by picture; then final.png has a row per particle, and a file
    is called PROMPT-PARTICLE-SIDE.png with hyphens for spaces.
    """
    (folder / "final").mkdir(parents=True, exist_ok=True)
    save_picture(grid(images, len(sides) or each), folder / "final.png")
    names = final_names(len(images) // max(len(sides), 1), each // max(len(sides), 1))
    if sides:
        names = [f"{name}-{side.replace(' ', '-')}" for name in names for side in sides]
    for name, image in zip(names, images, strict=True):
        save_picture(grid(image[None], 1), folder / "final" / f"{name}.png")


def film(frames: Sequence[Path], path: Path, seconds: float = 4.0, least: int = 256) -> None:
    """An animated WebP of PNG files, ``seconds`` long, the last frame held; small ones are enlarged to ``least`` pixels across."""
    sheets = [Image.open(frame).convert("RGBA") for frame in frames]
    factor = max(1, -(-least // sheets[0].width))
    size = (sheets[0].width * factor, sheets[0].height * factor)
    sheets = [sheet.resize(size, Image.Resampling.NEAREST) for sheet in sheets]
    pause = max(int(1000 * seconds / len(sheets)), 40)
    part = path.with_name(path.name + ".part")
    pauses = [pause] * (len(sheets) - 1) + [2000]
    sheets[0].save(
        part, "WEBP", save_all=True, append_images=sheets[1:], duration=pauses, loop=0, quality=85
    )
    os.replace(part, path)
