"""Metrics of particles against the law of an exact prior."""

import math

import pytest
import torch

from limbeck.metrics.true_law import draw_from_law, law_metrics, log_p
from limbeck.priors.exact import DataSet, GaussianMixture, colored_shapes
from limbeck.studies.distribution import three_gaussians


def test_true_samples_have_the_moments_of_the_mixture():
    prior, rng = three_gaussians(), torch.Generator().manual_seed(0)
    x = draw_from_law(prior, "all", 40_000, rng)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert torch.allclose(x.mean(0), weights @ prior.means, atol=0.03)
    variance = weights @ (prior.stds[:, None] ** 2 + prior.means**2) - (weights @ prior.means) ** 2
    assert torch.allclose(x.var(0), variance, rtol=0.03)


def test_a_prompt_selects_its_components():
    prior, rng = colored_shapes(size=8), torch.Generator().manual_seed(0)
    x = draw_from_law(prior, "a red disc", 50, rng)
    nearest = torch.cdist(x, prior.means.flatten(1)).argmin(1)
    assert {prior.labels[i] for i in nearest.tolist()} == {"red disc"}
    images = torch.randint(256, (6, 3, 4, 4), generator=rng).byte()
    data = DataSet(images, labels=("cat", "cat", "dog", "dog", "dog", "cat"))
    rows = {
        tuple(((row + 1) * 127.5).round().int().tolist())
        for row in draw_from_law(data, "dog", 100, rng)
    }
    assert rows == {tuple(images[i].flatten().tolist()) for i in (2, 3, 4)}


def test_true_samples_are_at_no_distance_and_lost_modes_are_seen():
    prior, rng = three_gaussians(), torch.Generator().manual_seed(5)
    true = law_metrics(draw_from_law(prior, "all", 2000, rng), prior, "all")
    assert abs(true["energy_distance"]) < 0.02
    assert true["sliced_wasserstein"] < 0.1 and true["mode_error"] < 0.03
    collapsed = prior.means[:1] + 0.5 * torch.randn(2000, 2, dtype=torch.float64, generator=rng)
    lost = law_metrics(collapsed, prior, "all")
    assert lost["mode_error"] == pytest.approx(0.5, abs=0.01)
    assert lost["energy_distance"] > 0.5 and lost["sliced_wasserstein"] > 1
    assert law_metrics(collapsed[:1], prior, "all") == {}


def test_mean_log_p_of_a_gaussian_is_minus_its_entropy():
    prior = GaussianMixture(torch.zeros(1, 3), torch.tensor([0.7]))
    x = draw_from_law(prior, "any", 20_000, torch.Generator().manual_seed(1))
    entropy = 3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.7))
    assert log_p(x, prior, "any").mean().item() == pytest.approx(-entropy, abs=0.03)
    assert log_p(x, GaussianMixture(torch.zeros(1, 3), torch.zeros(1)), "any") is None
