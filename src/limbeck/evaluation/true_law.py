"""Particles of a run on an exact prior against the law that the prior states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.evaluation.image_sets import Key
from limbeck.evaluation.measured_images import MeasuredImages
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.metrics.energy_distance import energy_distance
from limbeck.metrics.mixture_modes import log_density, mode_error, mode_shares
from limbeck.metrics.sliced_wasserstein import sliced_wasserstein
from limbeck.priors.exact import DataSet, GaussianMixture
from limbeck.training.experiment import Experiment
from limbeck.training.warm_start import load_representation

ExactPrior = GaussianMixture | DataSet
_MIN_TRUE_SAMPLES = 1024  #: of the energy distance, which takes any two numbers


def draw_from_law(
    prior: ExactPrior, prompt: str, count: int, rng: torch.Generator
) -> Float[Tensor, "n d"]:
    """Draw independent samples of x0 given a prompt, without a sampler.

    Args:
        prior: the exact prior.
        prompt: the prompt.
        count: number of samples.
        rng: source of randomness.
    """
    log_weights = prior.condition([prompt]).data[0].double().cpu()
    if isinstance(prior, GaussianMixture):
        mode = torch.multinomial(_weights(prior, prompt), count, replacement=True, generator=rng)
        means = prior.means.flatten(1).cpu()
        noise = torch.randn(count, means.shape[1], generator=rng, dtype=torch.float64)
        return means[mode] + prior.stds.cpu()[mode, None] * noise
    row = torch.multinomial(log_weights.softmax(0), count, replacement=True, generator=rng)
    return prior.images[row].flatten(1).double() / 127.5 - 1


def _weights(prior: GaussianMixture, prompt: str) -> Float[Tensor, "k"]:
    """Weights of the components given a prompt, sum 1."""
    assert prior.weights is not None  # set when the prior is made
    log_weights = prior.weights.double().log() + prior.condition([prompt]).data[0].double()
    return log_weights.softmax(0).cpu()


def law_metrics(
    points: Float[Tensor, "n d"], prior: ExactPrior, prompt: str, seed: int = 0
) -> dict[str, float]:
    """Distances of the particles of a prompt to samples of its law, and their modes.

    Args:
        points: the particles in x0 space, flat.
        prior: the exact prior.
        prompt: the prompt.
        seed: seed of the true samples.

    Returns:
        ``energy_distance`` and ``sliced_wasserstein``, of a mixture also ``mode_error``; empty for
        a single particle.
    """
    count, rng = len(points), torch.Generator().manual_seed(seed)
    if count < 2:
        return {}
    true = draw_from_law(prior, prompt, max(count, _MIN_TRUE_SAMPLES), rng)
    metrics = {
        "energy_distance": energy_distance(points, true),
        "sliced_wasserstein": sliced_wasserstein(points, true[:count]),
    }
    if isinstance(prior, GaussianMixture):
        shares = mode_shares(points.double(), prior.means.flatten(1).cpu())
        metrics["mode_error"] = mode_error(shares, _weights(prior, prompt))
    return metrics


def log_p(
    points: Float[Tensor, "n d"], prior: ExactPrior, prompt: str
) -> Float[Tensor, "n"] | None:
    """Log-density of x0 given a prompt, in nats; None if the law has none, as that of points."""
    if not isinstance(prior, GaussianMixture) or not bool((prior.stds > 0).all()):
        return None
    means, stds = prior.means.flatten(1).cpu(), prior.stds.cpu()
    return log_density(points, means, stds, _weights(prior, prompt))


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
    for prompt, points in zip(
        experiment.prompts, x0.flatten(1).double().cpu().split(experiment.particles), strict=True
    ):
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
