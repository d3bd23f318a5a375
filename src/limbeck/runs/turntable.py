"""Once around a particle: colour, normals, depth and opacity side by side as a film, and stills of them on one sheet."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.camera import turntable_cameras as circle
from limbeck.runs.images import grid, save_picture
from limbeck.graphics.export.png import to_bytes
from limbeck.diffusion.prior import Prior
from limbeck.representations.base import Representation

LEAST = 192  #: pixels across a panel, to which smaller ones are enlarged
AT_ONCE = 4  #: frames rendered together
RATE = 12  #: frames a second


@dataclass(frozen=True)
class Looked:
    """From where a turntable looks: elevation and vertical fov in degrees, distance in units of space."""

    elevation: float = 15.0
    distance: float = 3.6
    fov: float = 40.0

    @property
    def span(self) -> tuple[float, float]:
        """The depths that have the first and the last colour: as far around the middle as a picture reaches up and down, so that
        the scale is the same in every frame and every run that looks from here."""
        half = self.distance * float(np.tan(np.radians(self.fov) / 2))
        return self.distance - half, self.distance + half


@dataclass(frozen=True)
class Panels:
    """Pictures of one size, in [0, 1]; where nothing is they are white, but for colour, which has the run's background."""

    colour: Float[Tensor, "n 3 h w"]
    normal: Float[Tensor, "n 3 h w"]
    depth: Float[Tensor, "n 3 h w"]
    opacity: Float[Tensor, "n 3 h w"]

    def all(self) -> list[Float[Tensor, "n 3 h w"]]:
        """In the order in which they are shown."""
        return [self.colour, self.normal, self.depth, self.opacity]

    def beside(self) -> Float[Tensor, "n 3 h w"]:
        """All of them in one row."""
        return torch.cat(self.all(), 3)


@torch.no_grad()
def panels(representation: Representation, prior: Prior, particle: int, camera: Camera, span: tuple[float, float]) -> Panels:
    """What cameras see of a particle; ``span``: depths of the colour scale. ValueError of what has no sides."""
    render = representation.render(RenderRequest(torch.full((len(camera),), particle), camera))
    if render.alpha is None or render.depth is None or render.normal is None:
        raise ValueError("a turntable needs opacity, depth and normals, and this representation renders none")
    colour = (render.image if render.space == "image" else prior.decode(render.image)).float().cpu().clamp(0, 1)
    scaled = lambda planes: _resized(planes.float().cpu(), colour.shape[2:])  # noqa: E731
    alpha = scaled(render.alpha).clamp(0, 1)
    on_white = lambda planes: alpha * planes + 1 - alpha  # noqa: E731
    normal, depth = on_white((scaled(render.normal) + 1) / 2), on_white(coloured(scaled(render.depth), span))
    return Panels(colour, normal.clamp(0, 1), depth, alpha.expand(-1, 3, -1, -1))


def coloured(depth: Float[Tensor, "n 1 h w"], span: tuple[float, float]) -> Float[Tensor, "n 3 h w"]:
    """Viridis over ``span``: near is yellow, far is blue; beyond shows as the end."""
    low, high = span
    level = 1 - ((depth[:, 0].double() - low) / (high - low)).clamp(0, 1).numpy()
    return torch.from_numpy(colormaps["viridis"](level)[..., :3]).permute(0, 3, 1, 2).float()


def _resized(planes: Float[Tensor, "n c y x"], size: torch.Size) -> Float[Tensor, "n c h w"]:
    """Of the size of the decoded picture, where a latent was rendered."""
    return planes if planes.shape[2:] == size else torch.nn.functional.interpolate(planes, tuple(size), mode="nearest")


def shots(representation: Representation, prior: Prior, particle: int, count: int, looked: Looked) -> Iterator[Panels]:
    """``count`` looks once around the particle, a few at a time."""
    camera = circle(count, looked.elevation, looked.distance, looked.fov)
    for rows in torch.arange(count).split(AT_ONCE):
        yield panels(representation, prior, particle, camera[rows], looked.span)


def turntable(
    representation: Representation, prior: Prior, particle: int, path: Path, frames: int = 48, looked: Looked = Looked(),
    say: Callable[[str], object] = lambda line: print(line, file=sys.stderr),
) -> Path:  # fmt: skip
    """Write a turntable to ``path``, an .mp4, in one move, and return where it lies: where imageio and av are missing, an animated
    .webp beside it, which ``say`` is told. A file that is there is replaced. ValueError of what has no sides.
    """
    found = (picture for shot in shots(representation, prior, particle, frames, looked) for picture in enlarged(shot.beside()))
    if all(importlib.util.find_spec(name) is not None for name in ("imageio", "av")):
        _mp4(found, path)
        return path
    _webp(found, path.with_suffix(".webp"))
    say(f"{path.with_suffix('.webp')} in the place of an .mp4, for which pip install imageio av")
    return path.with_suffix(".webp")


def stills(
    representation: Representation, prior: Prior, particle: int, path: Path, sides: int = 8, looked: Looked = Looked()
) -> Path:
    """Write a sheet with a column for each side and rows of colour, normals, depth and opacity, in one move."""
    every = [shot.all() for shot in shots(representation, prior, particle, sides, looked)]
    rows = torch.cat([torch.cat([shot[kind] for shot in every]) for kind in range(4)])
    save_picture(grid(rows, sides), path)
    return path


def enlarged(pictures: Float[Tensor, "n 3 h w"]) -> np.ndarray:
    """uint8 ``[n, h, w, 3]``: small panels are enlarged, and sides that are odd get a white line, since video wants even ones."""
    factor = max(1, -(-LEAST // pictures.shape[2]))
    large = to_bytes(pictures).repeat(factor, 1).repeat(factor, 2)
    odd = [(0, 0), *((0, side % 2) for side in large.shape[1:3]), (0, 0)]
    return np.pad(large, odd, constant_values=255)


def _mp4(frames: Iterable[np.ndarray], path: Path) -> None:
    import imageio.v3 as iio

    part = path.with_name(".part-" + path.name)  # the ending tells the container
    try:
        with iio.imopen(part, "w", plugin="pyav") as file:
            file.init_video_stream("libx264", fps=RATE, pixel_format="yuv420p")
            for frame in frames:
                file.write_frame(frame)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _webp(frames: Iterable[np.ndarray], path: Path) -> None:
    sheets, part = [Image.fromarray(frame) for frame in frames], path.with_name(path.name + ".part")
    sheets[0].save(part, "WEBP", save_all=True, append_images=sheets[1:], duration=round(1000 / RATE), loop=0, quality=85)
    os.replace(part, path)
