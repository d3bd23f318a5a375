"""Particles in the space of an exact prior against the law that the prior states."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.energy_distance import energy_distance
from limbeck.metrics.mixture_modes import log_density, mode_error, mode_shares
from limbeck.metrics.sliced_wasserstein import sliced_wasserstein
from limbeck.priors.exact import DataSet, GaussianMixture

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
        weights = mode_weights(prior, prompt)
        mode = torch.multinomial(weights, count, replacement=True, generator=rng)
        means = prior.means.flatten(1).cpu()
        noise = torch.randn(count, means.shape[1], generator=rng, dtype=torch.float64)
        return means[mode] + prior.stds.cpu()[mode, None] * noise
    row = torch.multinomial(log_weights.softmax(0), count, replacement=True, generator=rng)
    return prior.images[row].flatten(1).double() / 127.5 - 1


def mode_weights(prior: GaussianMixture, prompt: str) -> Float[Tensor, "k"]:
    """Weights of the components given a prompt, sum 1.

    Args:
        prior: the mixture.
        prompt: the prompt.
    """
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
        metrics["mode_error"] = mode_error(shares, mode_weights(prior, prompt))
    return metrics


def log_p(
    points: Float[Tensor, "n d"], prior: ExactPrior, prompt: str
) -> Float[Tensor, "n"] | None:
    """Log-density of x0 given a prompt, in nats; None if the law has none, as that of points."""
    if not isinstance(prior, GaussianMixture) or not bool((prior.stds > 0).all()):
        return None
    means, stds = prior.means.flatten(1).cpu(), prior.stds.cpu()
    return log_density(points, means, stds, mode_weights(prior, prompt))
