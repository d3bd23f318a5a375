"""The results of a finished run: images, scores, animation, turntables, files of its particles."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.metrics.run_scores import score_run
from limbeck.metrics.true_law import ExactPrior, draw_from_law
from limbeck.runs import contact_sheets, images
from limbeck.runs.final_products import FinalProducts
from limbeck.runs.reference_renders import save_reference_renders
from limbeck.runs.snapshots_2d import ImageSnapshots
from limbeck.system.files import write_text
from limbeck.training.trainer import Run

_LEAST_DRAWS = 256  #: from the law beside particles, per prompt


def write_results(
    run: Run,
    folder: Path,
    snapshots: ImageSnapshots,
    products: FinalProducts,
    tell: Callable[[str], None],
    films: bool = True,
) -> None:
    """Write the results of a run; one that cannot be written does not cost the others.

    Args:
        run: the run after its last step.
        folder: its folder.
        snapshots: renders its particles.
        products: where failures are noted.
        tell: prints a message.
        films: also write turntables and stills of 3D particles.
    """
    e, representation = run.experiment, run.representation
    stems = images.particle_stems(e.total, e.particles)
    final_images = cache(snapshots.particle_images)
    products.write("final images", lambda: _save_images(run, folder, final_images()))
    name = f"the files of {component_name(type(e.representation))}"
    products.write(name, lambda: representation.save(folder / "final", stems))
    products.write("scores.json", lambda: _save_scores(run, folder, final_images()))
    products.write("progress.webp", lambda: _save_animation(folder))
    if run.reference is not None:
        reference = folder / "reference"
        products.write("reference/", lambda: save_reference_renders(run, reference))
    if films:
        turntable = folder / "turntable"
        products.write("turntable", lambda: contact_sheets.save_turntables(run, turntable, tell))


@torch.no_grad()
def save_scatter(run: Run, folder: Path) -> None:
    """Draw the particles of a model without images, beside draws from the law if it is exact.

    Args:
        run: the run after its last step.
        folder: its folder.
    """
    from limbeck.runs.report.scatter_plot import draw_scatter  # imports matplotlib, which is slow

    e, prior = run.experiment, run.prior
    x0 = run.encode(run.representation.render(RenderRequest(torch.arange(e.total))))
    parts = list(zip(e.prompts, x0.float().cpu().split(e.particles), strict=True))
    points = {
        prompt: torch.cat([part for other, part in parts if other == prompt])
        for prompt in e.prompts
    }
    if isinstance(prior, ExactPrior):
        rng, count = torch.Generator().manual_seed(e.seed), max(e.particles, _LEAST_DRAWS)
        draws = [draw_from_law(prior, prompt, count, rng) for prompt in points]
        points = {"draws from the law": torch.cat(draws), **points}
    images.save_png(draw_scatter(points, dpi=180), folder / images.SCATTER_FILE)


def _save_images(run: Run, folder: Path, final_images: Float[Tensor, "n 3 h w"]) -> None:
    views = contact_sheets.view_names(run)
    shown = contact_sheets.render_final_images(run) if views else final_images
    per_prompt = len(final_images) // len(run.experiment.prompts)
    images.save_final_images(folder, shown, per_prompt, views)


def _save_scores(run: Run, folder: Path, final_images: Float[Tensor, "n 3 h w"]) -> None:
    prompts, num_views = run.experiment.prompts, len(contact_sheets.view_names(run))
    per_prompt = len(final_images) // len(prompts)
    scores = score_run(final_images, prompts, per_prompt, max(num_views, 1))
    write_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n")


def _save_animation(folder: Path) -> None:
    frames = images.recorded_images(folder).get("", {})
    images.save_animation(list(frames.values()), folder / "progress.webp")
