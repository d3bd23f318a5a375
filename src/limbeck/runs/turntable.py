"""Turntables: a video around a particle in color, normals, depth and opacity, and stills of it."""

from __future__ import annotations

import importlib.util
import itertools
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

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_unit_range
from limbeck.graphics.cameras.camera import Camera, turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.export.png import to_uint8
from limbeck.representations.base import Representation
from limbeck.runs.images import image_grid, save_png
from limbeck.system.files import replacing

_MIN_PANEL_SIZE = 192  #: smaller panels are enlarged to at least this width, in pixels
_RENDER_BATCH = 4  #: frames rendered at a time
_FPS = 12
_BT709, _LIMITED_RANGE = 1, 1  #: numbers of H.273 for the colors of a video


@dataclass(frozen=True)
class TurntableCamera:
    """Orbit of a turntable around the origin.

    Attributes:
        elevation: in degrees.
        distance: from the origin, in scene units.
        fov: vertical field of view in degrees.
    """

    elevation: float = 15.0
    distance: float = 3.6
    fov: float = 40.0

    @property
    def depth_range(self) -> tuple[float, float]:
        """Depths at the ends of the color scale.

        The distance plus and minus half of the height that the camera sees at the origin, so that
        all frames, and all runs with this orbit, share one scale.
        """
        half = self.distance * float(np.tan(np.radians(self.fov) / 2))
        return self.distance - half, self.distance + half


@dataclass(frozen=True)
class TurntableFrames:
    """Panels of one size with values in [0, 1].

    Attributes:
        color: on the run's background.
        normal: world-space normals mapped from [-1, 1] to RGB, on white.
        depth: viridis, near in yellow, on white.
        opacity: white where opaque, on black.
    """

    color: Float[Tensor, "n 3 h w"]
    normal: Float[Tensor, "n 3 h w"]
    depth: Float[Tensor, "n 3 h w"]
    opacity: Float[Tensor, "n 3 h w"]

    def channels(self) -> list[Float[Tensor, "n 3 h w"]]:
        """All channels in display order."""
        return [self.color, self.normal, self.depth, self.opacity]

    def side_by_side(self) -> Float[Tensor, "n 3 h width"]:
        """All channels in one row."""
        return torch.cat(self.channels(), 3)


def _print_to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@torch.no_grad()
def render_frames(
    representation: Representation,
    prior: Prior,
    particle: int,
    camera: Camera,
    depth_range: tuple[float, float],
    size: tuple[int, int] | None = None,
) -> TurntableFrames:
    """Render a particle from several cameras.

    Args:
        representation: the particles.
        prior: decodes latent renders.
        particle: particle index.
        camera: one camera per frame.
        depth_range: depths at the ends of the color scale.
        size: height and width of a panel; None for those of the model.

    Raises:
        ValueError: if the representation renders no opacity, depth or normals.
    """
    rows = torch.full((len(camera),), particle)
    render = representation.render(RenderRequest(rows, camera, size=size))
    if render.alpha is None or render.depth is None or render.normal is None:
        raise ValueError(
            "a turntable needs opacity, depth and normals, and this representation renders none"
        )
    image = render.image if render.space == "image" else prior.decode(render.image)
    color = to_unit_range(image.float().cpu())
    panel = color.shape[2:]
    alpha = _resize(render.alpha.float().cpu(), panel).clamp(0, 1)
    normal = (_resize(render.normal.float().cpu(), panel) + 1) / 2
    depth = colorize_depth(_resize(render.depth.float().cpu(), panel), depth_range)
    return TurntableFrames(
        color,
        (alpha * normal + 1 - alpha).clamp(0, 1),
        alpha * depth + 1 - alpha,
        alpha.expand(-1, 3, -1, -1),
    )


def colorize_depth(
    depth: Float[Tensor, "n 1 h w"], depth_range: tuple[float, float]
) -> Float[Tensor, "n 3 h w"]:
    """Color depth with viridis, near in yellow and far in blue, clipped to ``depth_range``."""
    low, high = depth_range
    level = 1 - ((depth[:, 0].double() - low) / (high - low)).clamp(0, 1).numpy()
    return torch.from_numpy(colormaps["viridis"](level)[..., :3]).permute(0, 3, 1, 2).float()


def _resize(channel: Float[Tensor, "n c y x"], size: torch.Size) -> Float[Tensor, "n c h w"]:
    """Resize a channel of a latent render to the size of the decoded image."""
    if channel.shape[2:] == size:
        return channel
    return torch.nn.functional.interpolate(channel, tuple(size), mode="nearest")


def orbit_frames(
    representation: Representation,
    prior: Prior,
    particle: int,
    count: int,
    camera: TurntableCamera,
    size: tuple[int, int] | None = None,
) -> Iterator[TurntableFrames]:
    """Render one turn around a particle, a few frames per item.

    Args:
        representation: the particles.
        prior: decodes latent renders.
        particle: particle index.
        count: number of frames.
        camera: orbit of the camera.
        size: height and width of a panel; None for those of the model.
    """
    cameras = turntable_cameras(count, camera.elevation, camera.distance, camera.fov)
    for rows in torch.arange(count).split(_RENDER_BATCH if size is None else 1):
        part = cameras[rows]
        yield render_frames(representation, prior, particle, part, camera.depth_range, size)


def save_turntable(
    representation: Representation,
    prior: Prior,
    particle: int,
    path: Path,
    frames: int = 48,
    camera: TurntableCamera = TurntableCamera(),
    report: Callable[[str], object] = _print_to_stderr,
    size: tuple[int, int] | None = None,
) -> Path:
    """Write a turntable video atomically, replacing an existing file.

    Args:
        representation: the particles.
        prior: decodes latent renders.
        particle: particle index.
        path: an .mp4 file.
        frames: frames of one turn, at 12 frames per second.
        camera: orbit of the camera.
        report: called with a message if av is missing.
        size: height and width of a panel; None for those of the model.

    Returns:
        ``path``; without av, an animated .webp next to it.

    Raises:
        ValueError: if the representation is 2D.
    """
    panels = (
        panel
        for batch in orbit_frames(representation, prior, particle, frames, camera, size)
        for panel in enlarge_frames(batch.side_by_side())
    )
    if importlib.util.find_spec("av") is not None:
        _write_mp4(panels, path)
        return path
    animation = path.with_suffix(".webp")
    _write_webp(panels, animation)
    report(f"wrote {animation} instead of an .mp4; for that: pip install av")
    return animation


def save_stills(
    representation: Representation,
    prior: Prior,
    particle: int,
    path: Path,
    views: int = 8,
    camera: TurntableCamera = TurntableCamera(),
    size: tuple[int, int] | None = None,
) -> Path:
    """Write a sheet with one column per view and rows of color, normals, depth and opacity.

    Args:
        representation: the particles.
        prior: decodes latent renders.
        particle: particle index.
        path: PNG file, written atomically.
        views: number of evenly spaced views.
        camera: orbit of the camera.
        size: height and width of a panel; None for those of the model.

    Raises:
        ValueError: if the representation is 2D.
    """
    batches = orbit_frames(representation, prior, particle, views, camera, size)
    channels = zip(*(batch.channels() for batch in batches), strict=True)
    rows = torch.cat([torch.cat(channel) for channel in channels])
    save_png(image_grid(rows, views), path)
    return path


def enlarge_frames(images: Float[Tensor, "n 3 h w"]) -> np.ndarray:
    """Convert frames to uint8 of shape [n, h, w, 3] with even height and width.

    Small frames are enlarged by an integer factor. A white line is appended to odd heights and
    widths, which video codecs refuse.
    """
    factor = max(1, -(-_MIN_PANEL_SIZE // images.shape[2]))
    enlarged = to_uint8(images).repeat(factor, 1).repeat(factor, 2)
    padding = [(0, 0), *((0, size % 2) for size in enlarged.shape[1:3]), (0, 0)]
    return np.pad(enlarged, padding, constant_values=255)


def _write_mp4(frames: Iterable[np.ndarray], path: Path) -> None:
    import av

    frames = iter(frames)
    first = next(frames)
    with replacing(path) as part, av.open(str(part), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=_FPS)
        stream.pix_fmt, codec = "yuv420p", stream.codec_context
        # stated in the file, or players would guess the matrix from the size of the video
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED_RANGE
        stream.height, stream.width = first.shape[:2]
        for frame in itertools.chain([first], frames):
            rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
            file.mux(stream.encode(rgb.reformat(format="yuv420p", dst_colorspace=_BT709)))
        file.mux(stream.encode(None))


def _write_webp(frames: Iterable[np.ndarray], path: Path) -> None:
    first, *rest = [Image.fromarray(frame) for frame in frames]
    options = {"duration": round(1000 / _FPS), "loop": 0, "quality": 85}
    with replacing(path) as part:
        first.save(part, "WEBP", save_all=True, append_images=rest, **options)
