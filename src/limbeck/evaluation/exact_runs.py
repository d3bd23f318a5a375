"""Metrics of runs on exact priors, against the law that the prior states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.evaluation.image_sets import Key, numbered_keys
from limbeck.evaluation.judge import run_family
from limbeck.evaluation.measured_images import MeasuredImages
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.metrics.mixture_modes import mode_shares
from limbeck.metrics.true_law import ExactPrior, draw_from_law, law_metrics, log_p
from limbeck.priors.exact import GaussianMixture
from limbeck.priors.loading import is_exact, load
from limbeck.runs.folder_state import refuse_unfinished
from limbeck.runs.images import SCATTER_FILE
from limbeck.training.experiment import Experiment
from limbeck.training.warm_start import load_representation


def find_law(experiment: Experiment, device: str) -> ExactPrior | None:
    """The exact prior of a run; None if its model is none.

    Args:
        experiment: the experiment.
        device: device of those that have a name.
    """
    model = experiment.model
    prior = load(model, device) if is_exact(model) else model
    return prior if isinstance(prior, ExactPrior) else None


def has_no_images(folder: Path) -> bool:
    """Whether the particles of a finished run are no images."""
    return (folder / SCATTER_FILE).is_file()


def list_particles(folder: Path, experiment: Experiment) -> MeasuredImages:
    """The particles of a finished run that are no images, without metrics.

    Args:
        folder: run folder.
        experiment: its experiment.

    Raises:
        ValueError: if the run is unfinished.
    """
    refuse_unfinished(folder, experiment)
    keys = numbered_keys(experiment.prompts, experiment.particles, experiment.seed)
    label, features = run_family(experiment), torch.zeros(len(keys), 0)
    return MeasuredImages(label, keys, features, {}, noun="particle")


@torch.no_grad()
def add_law_metrics(
    measured: MeasuredImages, folder: Path, experiment: Experiment, prior: ExactPrior
) -> tuple[MeasuredImages, dict[str, list[float]]]:
    """Add the metrics of the true law to the images of a run.

    The floor of each is that of as many true samples.

    Args:
        measured: the images of the run.
        folder: its folder.
        experiment: its experiment.
        prior: its model.

    Returns:
        The images, and the share of each mode by prompt (empty for a data set).
    """
    representation, total = load_representation(folder, prior)
    render = representation.render(RenderRequest(torch.arange(total)))
    x0 = prior.encode(render.image) if render.space == "image" else render.image
    values: dict[str, dict[Key, float]] = {}
    floors: dict[str, dict[Key, float]] = {}
    shares: dict[str, list[float]] = {}
    parts = x0.flatten(1).double().cpu().split(experiment.particles)
    by_prompt: dict[str, list[Tensor]] = {}  # a prompt may be given twice
    for prompt, part in zip(experiment.prompts, parts, strict=True):
        by_prompt.setdefault(prompt, []).append(part)
    for prompt, own_parts in by_prompt.items():
        points = torch.cat(own_parts)
        rng = torch.Generator().manual_seed(experiment.seed + 1)
        true = draw_from_law(prior, prompt, len(points), rng)
        for columns, own in ((values, points), (floors, true)):
            _add_values(columns, own, prior, prompt, experiment.seed)
        if isinstance(prior, GaussianMixture):
            means = prior.means.flatten(1).cpu()
            shares[prompt] = [round(share, 4) for share in mode_shares(points, means).tolist()]
    return replace(measured, values=values | measured.values, floors=floors), shares


def _add_values(
    columns: dict[str, dict[Key, float]],
    points: Float[Tensor, "n d"],
    prior: ExactPrior,
    prompt: str,
    seed: int,
) -> None:
    """Add the metrics of the particles of a prompt to columns by prompt and seed."""
    densities = log_p(points, prior, prompt)
    if densities is not None:
        for i, value in enumerate(densities.tolist()):
            columns.setdefault("log_p", {})[prompt, (seed, i)] = value
    for name, value in law_metrics(points, prior, prompt, seed).items():
        columns.setdefault(name, {})[prompt, (seed, 0)] = value


def named_modes(
    prior: ExactPrior, shares: Mapping[str, list[float]]
) -> dict[str, dict[str, float]]:
    """Shares by the labels of the modes, or by their numbers, and prompt."""
    labels = prior.labels if isinstance(prior, GaussianMixture) else ()
    return {
        prompt: {labels[k] if labels else str(k): share for k, share in enumerate(own)}
        for prompt, own in shares.items()
    }
