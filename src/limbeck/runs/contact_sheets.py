"""Contact sheets of a run: its particles from fixed views, with normals, depth and opacity."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.metrics.heldout_views import to_images
from limbeck.representations.base import Render
from limbeck.runs.images import (
    VIEW_NAMES,
    columns_of_prompts,
    image_grid,
    particle_stems,
    scatter_images,
)
from limbeck.runs.turntable import TurntableCamera, save_stills, save_turntable
from limbeck.system.async_copy import AsyncCopies
from limbeck.training.particle_images import particle_images
from limbeck.training.trainer import Run

FINAL_SIZE = 256  #: least side of the final images of 3D particles, in pixels
FILM_SIZE = 512  #: the same of turntables and stills, where that is fast enough
_MAX_ENLARGEMENT = 8  #: of films relative to the scored images
_FILM_FRAMES = 56  #: of a turntable with its stills
_FILM_SECONDS = 60.0  #: films that would take longer keep the size of the scored images
_RENDER_BATCH = 8  #: images rendered at a time, which bounds the memory of a large decoder


@dataclass(frozen=True)
class ParticleImages:
    """Renders of all particles from the views ``VIEW_NAMES`` (2D particles: one image each).

    Attributes:
        copies: channels by name, on their way to the CPU.
        camera: cameras of the images; None for 2D particles.
    """

    copies: AsyncCopies
    camera: Camera | None

    def images(self) -> dict[str, Float[Tensor, "n 3 h w"]]:
        """Wait for the copies and return RGB images by channel; see ``channel_images``."""
        return channel_images(self.copies.to_cpu(), self.camera)


def _uncounted_images(run: Run, request: RenderRequest) -> Float[Tensor, "b 3 h w"]:
    """Images of particles; network calls that make them of noise are no cost of the run."""
    counter = run.prior.call_counter
    calls, rows = counter.calls, counter.rows
    images = particle_images(run, request).float()
    counter.calls, counter.rows = calls, rows
    return images


@torch.no_grad()
def render_final_images(run: Run) -> Float[Tensor, "n 3 h w"]:
    """Images of all particles for people: those of 3D particles have at least FINAL_SIZE pixels.

    Larger than the images that are scored, one at a time, as memory grows with the pixels.
    """
    request = run.eval_request(len(VIEW_NAMES))
    if request.camera is not None:
        request = replace(request, size=final_size(run))
    images = []
    for row in range(len(request)):
        part = request[row : row + 1]
        if part.camera is None:
            images.append(_uncounted_images(run, part).cpu())
        else:
            images.append(to_images(run.representation.render(part), run.prior).cpu())
    return torch.cat(images)


def final_size(run: Run) -> tuple[int, int]:
    """Size of the scored images, enlarged by an integer factor to at least FINAL_SIZE."""
    return _enlarged_size(run, FINAL_SIZE)


def _enlarged_size(run: Run, least: int) -> tuple[int, int]:
    height, width = _canvas_size(run)
    factor = max(1, -(-least // min(height, width)))
    return height * factor, width * factor


def _canvas_size(run: Run) -> tuple[int, int]:
    return run.experiment.representation.canvas_size(run.prior)


@torch.no_grad()
def film_size(run: Run, camera: Camera, particles: int) -> tuple[int, int] | None:
    """FILM_SIZE or half of it, or None (the size of the scored images) if such films take too long.

    Args:
        run: the run.
        camera: a camera of the film, from which one frame of each size is rendered and timed.
        particles: number of films.
    """
    fitting = None
    for least in (FILM_SIZE // 2, FILM_SIZE):
        size = _enlarged_size(run, min(least, _MAX_ENLARGEMENT * min(_canvas_size(run))))
        start = time.perf_counter()
        row = RenderRequest(torch.zeros(1).long(), camera, size=size)
        to_images(run.representation.render(row), run.prior).cpu()
        if (time.perf_counter() - start) * _FILM_FRAMES * particles > _FILM_SECONDS:
            break
        fitting = size
    return fitting


@torch.no_grad()
def render_particles(run: Run) -> ParticleImages:
    """Render all particles in their current state."""
    request = run.eval_request(len(VIEW_NAMES))
    channels: dict[str, list[Tensor]] = {}
    for rows in torch.arange(len(request)).split(_RENDER_BATCH):
        part = request[rows]
        if part.camera is None:
            rendered = {"": _uncounted_images(run, part)}
        else:
            rendered = render_channels(run.representation.render(part), run.prior)
        for name, images in rendered.items():
            channels.setdefault(name, []).append(images)
    stacked = {name: torch.cat(images) for name, images in channels.items()}
    return ParticleImages(AsyncCopies(stacked), request.camera)


def render_channels(render: Render, prior: Prior) -> dict[str, Float[Tensor, "b c y x"]]:
    """Channels of a render on its device.

    Returns:
        Under ``""`` the image in [0, 1]; for 3D renders also ``normal``, ``depth`` and ``alpha``,
        as far as the representation renders them.
    """
    channels = {"": to_images(render, prior)}
    if render.alpha is not None:
        extra = {"normal": render.normal, "depth": render.depth, "alpha": render.alpha}
        channels |= {k: v.detach().float() for k, v in extra.items() if v is not None}
    return channels


def channel_images(
    channels: dict[str, Float[Tensor, "b c y x"]], camera: Camera | None
) -> dict[str, Float[Tensor, "b 3 y x"]]:
    """Convert the channels of ``render_channels``, on the CPU, to RGB images in [0, 1].

    Normals and depth are composited on white; in the opacity image, empty space is black.
    They keep their own resolution, which may differ from that of the decoded image.
    """
    out = {"": channels[""]}
    if "alpha" not in channels or camera is None:
        return out
    alpha = channels["alpha"].clamp(0, 1)
    if "normal" in channels:
        out["normal"] = (alpha * (channels["normal"] + 1) / 2 + 1 - alpha).clamp(0, 1)
    if "depth" in channels:
        out["depth"] = alpha * depth_colors(channels["depth"], camera) + 1 - alpha
    return out | {"alpha": alpha.expand(-1, 3, -1, -1)}


def depth_colors(depth: Float[Tensor, "b 1 y x"], camera: Camera) -> Float[Tensor, "b 3 y x"]:
    """Color depth with viridis, near in yellow.

    The scale spans the origin plus and minus half of the height that the camera sees there.
    """
    distance = camera.distance.double().cpu()[:, None, None]
    reach = distance * (camera.fov.double().cpu() / 2).tan()[:, None, None]
    level = ((distance + reach - depth[:, 0].double()) / (2 * reach)).clamp(0, 1)
    colors = torch.from_numpy(colormaps["viridis"](level.numpy())[..., :3])
    return colors.permute(0, 3, 1, 2).float()


def contact_sheet(run: Run, images: Float[Tensor, "n 3 h w"]) -> Image.Image:
    """Arrange images of all particles: one row per prompt, or per particle if it is 3D."""
    return image_grid(images, sheet_columns(run))


def view_names(run: Run) -> tuple[str, ...]:
    """Names of the views that each particle is shown from; empty for 2D particles."""
    return VIEW_NAMES if run.cameras.eval_cameras(1) is not None else ()


def sheet_columns(run: Run) -> int:
    """Images per row of a ``contact_sheet``."""
    e = run.experiment
    return len(view_names(run)) or columns_of_prompts(e.total, e.particles)


def arrange_step_images(
    run: Run, images: Float[Tensor, "b 3 h w"], particle: Sequence[int]
) -> tuple[Float[Tensor, "n 3 h w"], int]:
    """Order the images of the rows of a step for a contact sheet.

    2D images go to the cell of their particle, and particles that were not drawn are gray. 3D
    images and new samples of a generator stay in the order of the rows, as a step may render a
    particle more than once.

    Args:
        run: the run.
        images: one image per row of the step.
        particle: particle index of each row.

    Returns:
        The images and the number of images per row of the sheet.
    """
    e = run.experiment
    if not view_names(run) and not e.representation.fresh_samples:
        return scatter_images(images, particle, e.total), columns_of_prompts(e.total, e.particles)
    per_particle = run.cameras.per_particle
    columns = per_particle if per_particle > 1 else min(len(images), len(VIEW_NAMES))
    return images.detach().float().cpu(), columns


def save_turntables(run: Run, folder: Path, report: Callable[[str], object]) -> None:
    """Write a turntable and stills of each 3D particle; does nothing for 2D particles.

    Args:
        run: the run.
        folder: gets ``PROMPT-PARTICLE.mp4`` (or .webp) and ``PROMPT-PARTICLE.png``.
        report: called with a message if a file cannot be written in the usual format.
    """
    camera = run.cameras.eval_cameras(1)
    if camera is None:
        return
    elevation, fov = (math.degrees(angle[0].item()) for angle in (camera.elevation, camera.fov))
    orbit = TurntableCamera(elevation, camera.distance[0].item(), fov)
    folder.mkdir(exist_ok=True)
    representation, prior = run.representation, run.prior
    stems = particle_stems(run.experiment.total, run.experiment.particles)
    size = film_size(run, camera[:1], len(stems))
    for particle, stem in enumerate(stems):
        video = folder / f"{stem}.mp4"
        try:
            save_turntable(representation, prior, particle, video, 48, orbit, report, size)
            save_stills(representation, prior, particle, folder / f"{stem}.png", 8, orbit, size)
        except ValueError as error:
            report(str(error))
            return
