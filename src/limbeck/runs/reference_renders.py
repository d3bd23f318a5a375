"""The reference of a finished run beside the renders of its particles from the same camera."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.runs.images import image_grid, particle_stems, save_png
from limbeck.system.files import write_text
from limbeck.training.trainer import Run

SIZE = 256  #: height and width of the images


@torch.no_grad()
def save_reference_renders(run: Run, folder: Path) -> None:
    """Write the reference on white, the renders, and how well they agree.

    ``scores.json`` has, by the file stem of each particle, the PSNR in dB of the render to the
    object in front of the render's background, and the intersection of object and silhouette over
    their union.

    Args:
        run: the run, which has a reference.
        folder: where to write.
    """
    assert run.reference is not None
    folder.mkdir(parents=True, exist_ok=True)
    images, e = run.reference.images.at(SIZE, SIZE), run.experiment
    save_png(image_grid(images.on_white[None], 1), folder / "image.png")
    scores = {}
    for particle, stem in enumerate(particle_stems(e.total, e.particles)):
        camera, size = run.reference.camera, (SIZE, SIZE)
        render = run.render(RenderRequest(torch.tensor([particle]), camera, size=size))
        save_png(image_grid(render.image.float(), 1), folder / f"{stem}.png")
        background = render.image if render.background is None else render.background
        target = images.color + (1 - images.mask) * background
        error = (render.image - target).square().mean().clamp_min(1e-10)
        assert render.alpha is not None
        covered, seen = images.mask > 0.5, render.alpha[0] > 0.5
        overlap, union = (covered & seen).sum(), (covered | seen).sum()
        scores[stem] = {
            "psnr": round(float(-10 * error.log10()), 2),
            "iou": round(float(overlap / union.clamp_min(1)), 4),
        }
    write_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
