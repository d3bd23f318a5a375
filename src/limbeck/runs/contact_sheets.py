"""What is pictured of a run at a step: its particles from their sides, and of what has sides normals, depth and opacity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.system.async_copy import AsyncCopies
from limbeck.metrics.heldout_views import pictured
from limbeck.runs.images import SEEN, final_names, grid, spread
from limbeck.diffusion.prior import Prior
from limbeck.representations.base import Render
from limbeck.training.trainer import Run
from limbeck.runs.turntable import Looked, stills, turntable

AT_ONCE = 8  #: pictures rendered together, so that a large decoder fits


@dataclass(frozen=True)
class ParticleImages:
    """What every particle shows, from the sides ``SEEN`` if it has any, particle by particle; ``pictures`` waits for it."""

    seen: AsyncCopies
    camera: Camera | None

    def pictures(self) -> dict[str, Float[Tensor, "n 3 h w"]]:
        """On the CPU: under ``""`` the particles themselves, then ``normal``, ``depth`` and ``alpha`` where they render them."""
        return planes(self.seen.fetched(), self.camera)


@torch.no_grad()
def render_particles(run: Run) -> ParticleImages:
    """All particles as they are now."""
    view = run.eval_request(len(SEEN))
    found: dict[str, list[Tensor]] = {}
    for rows in torch.arange(len(view)).split(AT_ONCE):
        part = view[rows]
        if part.camera is None:
            one = {"": run.representation.images(run.prior, part).float()}
        else:
            one = parts(run.representation.render(part), run.prior)
        for name, images in one.items():
            found.setdefault(name, []).append(images)
    return ParticleImages(AsyncCopies({name: torch.cat(several) for name, several in found.items()}), view.camera)


def parts(render: Render, prior: Prior) -> dict[str, Float[Tensor, "b c y x"]]:
    """A render as it is, where it was made: under ``""`` as images in [0, 1], and beside them what else it has."""
    also = {"normal": render.normal, "depth": render.depth, "alpha": render.alpha} if render.alpha is not None else {}
    return {"": pictured(render, prior)} | {name: part.detach().float() for name, part in also.items() if part is not None}


def planes(parts: dict[str, Float[Tensor, "b c y x"]], camera: Camera | None) -> dict[str, Float[Tensor, "b 3 y x"]]:
    """The ``parts`` of a render, on the CPU, as pictures in [0, 1], those beside its image at the size it was rendered at; where
    nothing is they are white, but for opacity, which is black there."""
    out = {"": parts[""]}
    if "alpha" not in parts or camera is None:
        return out
    alpha = parts["alpha"].clamp(0, 1)
    if "normal" in parts:
        out["normal"] = (alpha * (parts["normal"] + 1) / 2 + 1 - alpha).clamp(0, 1)
    if "depth" in parts:
        out["depth"] = alpha * depths(parts["depth"], camera) + 1 - alpha
    return out | {"alpha": alpha.expand(-1, 3, -1, -1)}


def depths(depth: Float[Tensor, "b 1 y x"], camera: Camera) -> Float[Tensor, "b 3 y x"]:
    """Viridis, near in yellow, over as much before and behind the origin as a picture reaches up and down there."""
    distance = camera.distance.double().cpu()[:, None, None]
    reach = distance * (camera.fov.double().cpu() / 2).tan()[:, None, None]
    level = ((distance + reach - depth[:, 0].double()) / (2 * reach)).clamp(0, 1)
    return torch.from_numpy(colormaps["viridis"](level.numpy())[..., :3]).permute(0, 3, 1, 2).float()


def contact_sheet(run: Run, images: Float[Tensor, "n 3 h w"]) -> Image.Image:
    """Pictures of all particles: a row per prompt, or per particle that has sides."""
    return grid(images, columns(run))


def sides(run: Run) -> tuple[str, ...]:
    """Names of the sides that every particle is shown from; none of what is flat."""
    return SEEN if run.cameras.eval_cameras(1) is not None else ()


def columns(run: Run) -> int:
    """Pictures to a row of a ``sheet``."""
    return len(sides(run)) or run.experiment.particles


def placed(run: Run, images: Float[Tensor, "b 3 h w"], view: Sequence[int]) -> tuple[Float[Tensor, "n 3 h w"], int]:
    """Pictures of the rows of a step, and how many go into a row of a sheet: each at the place of its particle, those that were not
    drawn grey; of what has sides, where a particle may be seen more than once, one after the other."""
    e = run.experiment
    if sides(run):
        return images.detach().float().cpu(), run.cameras.per_particle if run.cameras.per_particle > 1 else min(len(images), len(SEEN))
    return spread(images, view, e.total), e.particles


def turn(run: Run, folder: Path, say: Callable[[str], object]) -> None:
    """Of every particle that has sides PROMPT-PARTICLE.mp4, once around it, and stills as PNG; ``say`` hears why there are none."""
    camera = run.cameras.eval_cameras(1)
    if camera is None:
        return
    elevation, fov = (math.degrees(angle[0].item()) for angle in (camera.elevation, camera.fov))
    looked = Looked(elevation, camera.distance[0].item(), fov)
    folder.mkdir(exist_ok=True)
    for particle, name in enumerate(final_names(run.experiment.total, run.experiment.particles)):
        try:
            turntable(run.representation, run.prior, particle, folder / f"{name}.mp4", looked=looked, say=say)
            stills(run.representation, run.prior, particle, folder / f"{name}.png", looked=looked)
        except ValueError as error:
            say(str(error))
            return
