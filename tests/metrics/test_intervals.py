"""Confidence intervals of shares, of means over prompts, and of metrics of whole sets."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.metrics import intervals
from limbeck.metrics.bounds import metric_bounds
from limbeck.metrics.intervals import (
    POSITIVE,
    jackknife_interval,
    mean_interval,
    paired_differences,
    prompt_means,
    t_quantile,
    wilson_interval,
)

F64 = torch.float64


def test_wilson_interval_against_published_values() -> None:
    # Newcombe 1998, table I, method 3
    for hits, count, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(hits / count, count) == pytest.approx((low, high), abs=6e-5)
    with pytest.raises(ValueError, match="at least 1"):
        wilson_interval(0.5, 0)


def test_quantiles_of_t_are_those_of_the_tables() -> None:
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 13: 2.160, 30: 2.042}
    for freedom, quantile in (table | {39: 2.023, 120: 1.980}).items():
        assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)
    with pytest.raises(ValueError, match="at least 1"):
        t_quantile(0)


def test_the_mean_of_few_prompts_has_a_t_interval() -> None:
    values = [0.2, 0.5, 0.6, 0.9]
    half = 3.182446 * torch.tensor(values, dtype=F64).std().item() / 2
    assert mean_interval(values) == pytest.approx((0.55 - half, 0.55 + half), abs=1e-6)
    odds, scale = 0.55 / 0.45, half / (0.55 * 0.45)  # of a share: on the logit scale
    ends = [odds * math.exp(sign * scale) for sign in (-1, 1)]
    found = mean_interval(values, (0.0, 1.0))
    assert found == pytest.approx([end / (1 + end) for end in ends], abs=1e-6)
    assert mean_interval([0.3]) is None


def test_the_bootstrap_of_many_prompts_agrees_with_the_normal_interval() -> None:
    values = torch.randn(200, dtype=F64, generator=torch.Generator().manual_seed(0)) + 3
    mean, half = values.mean().item(), 1.96 * values.std(correction=0).item() / math.sqrt(200)
    found = mean_interval(values.tolist())
    assert found == pytest.approx((mean - half, mean + half), abs=0.08 * half)
    assert found == mean_interval(values.tolist())  # the same draw each time


def test_resamples_of_many_prompts_are_the_same_in_parts(monkeypatch) -> None:
    values = torch.randn(60, dtype=F64, generator=torch.Generator().manual_seed(0)).tolist()
    whole = mean_interval(values)
    monkeypatch.setattr(intervals, "_KEPT_COUNT", 50)
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", 1000 * 60 + 1)  # in ten parts
    assert mean_interval(values) == pytest.approx(whole, abs=1e-6)


def test_the_weights_of_thousands_of_prompts_are_not_kept() -> None:
    intervals._bootstrap_weights.cache_clear()
    mean_interval([float(i % 7) for i in range(2_100)])  # 30,000 would take 5 GB
    assert intervals._bootstrap_weights.cache_info().currsize == 0


def test_prompts_that_all_agree_leave_what_wilson_leaves() -> None:
    for count in (14, 60):
        assert mean_interval([1.0] * count, (0, 1)) == pytest.approx(wilson_interval(1.0, count))
        assert mean_interval([0.0] * count, (0, 1)) == pytest.approx(wilson_interval(0.0, count))
    # a difference of shares is -1 to 1
    low = wilson_interval(1.0, 14)[0]
    assert mean_interval([0.0] * 14, (0, 1), is_difference=True) == pytest.approx(
        (low - 1, 1 - low)
    )


def test_equal_counts_are_as_uncertain_as_equal_shares() -> None:
    """Such as the number of modes, of which 4 are possible, and interactions of shares."""
    for bounds in ((0.0, 4.0), (-1.0, 1.0)):
        low, high = mean_interval([bounds[1]] * 8, bounds)
        assert low < bounds[1] - 0.1 and high == bounds[1]
        low, high = mean_interval([0.0] * 8, bounds, is_difference=True)
        assert low < -0.1 and high > 0.1


def test_equal_values_of_unbounded_metrics_have_no_spread() -> None:
    """Edits that leave the outside of a mask alone: an error of 0, a similarity of 1."""
    assert mean_interval([0.0] * 14, metric_bounds("mse_outside")) == (0, 0)
    assert mean_interval([1.0] * 14, metric_bounds("ssim_outside")) == (1, 1)


def covered(prompts: int, seeds: int, repetitions: int) -> tuple[float, float]:
    """Coverage of the prompt interval and of Wilson's over all images, of correlated seeds.

    The chance of a prompt is the logistic of N(logit 0.6, 1.5^2).
    """
    rng = torch.Generator().manual_seed(prompts + seeds)

    def chances(*shape: int) -> torch.Tensor:
        spread = 1.5 * torch.randn(*shape, dtype=F64, generator=rng)
        return torch.sigmoid(spread + math.log(0.6 / 0.4))

    truth = chances(1_000_000).mean().item()
    ours = wilson = 0
    for _ in range(repetitions):
        hits = torch.rand(prompts, seeds, dtype=F64, generator=rng) < chances(prompts, 1)
        found = mean_interval(hits.double().mean(1).tolist(), (0, 1))
        assert found is not None
        ours += found[0] <= truth <= found[1]
        pooled = wilson_interval(hits.double().mean().item(), prompts * seeds)
        wilson += pooled[0] <= truth <= pooled[1]
    return ours / repetitions, wilson / repetitions


@pytest.mark.parametrize(
    ("prompts", "seeds", "pooled_below"), [(14, 4, 0.9), (14, 8, 0.8), (40, 8, 0.8), (100, 4, 0.9)]
)
def test_intervals_over_prompts_cover_and_pooled_ones_do_not(prompts, seeds, pooled_below) -> None:
    # the standard error of 1,500 repetitions is .006
    ours, wilson = covered(prompts, seeds, 1500)
    assert 0.92 <= ours <= 0.98
    assert wilson < pooled_below


@pytest.mark.parametrize(
    ("bounds", "sharpness", "count", "least"),
    [
        # mean .97 of 1 on [-1, 1], as of SSIM; then of a share of .9, and of a share of .5
        ((-1.0, 1.0), (19.7, 0.3), 8, 0.88),
        ((-1.0, 1.0), (19.7, 0.3), 24, 0.915),
        ((0.0, 1.0), (0.9, 0.1), 14, 0.88),
        ((0.0, 1.0), (2.0, 2.0), 14, 0.94),
    ],
)
def test_intervals_near_a_bound_stay_within_it_and_cover_more(
    bounds: tuple[float, float], sharpness: tuple[float, float], count: int, least: float
) -> None:
    """Against Student's t cut at the bounds, of values of a beta distribution."""
    torch.manual_seed(count)
    low, high = bounds
    values = low + (high - low) * torch.distributions.Beta(
        *(torch.tensor(own, dtype=F64) for own in sharpness)
    ).sample((4000, count))
    truth = low + (high - low) * sharpness[0] / sum(sharpness)
    ours = cut = 0
    for own in values:
        found = mean_interval(own.tolist(), bounds)
        plain = mean_interval(own.tolist())
        assert found is not None and plain is not None
        assert low <= found[0] < found[1] <= high
        ours += found[0] <= truth <= found[1]
        cut += plain[0] <= truth <= min(plain[1], high)
    assert least <= ours / 4000 <= 0.97  # the standard error is .004 to .005
    assert ours >= cut


def test_far_from_its_bounds_a_metric_has_the_plain_interval() -> None:
    values = [0.5 + 0.001 * i for i in range(-10, 11)]
    assert mean_interval(values, (0, 1)) == pytest.approx(mean_interval(values), abs=1e-6)
    assert mean_interval([0.1, 0.5, 0.1], POSITIVE)[0] == 0.0  # a single bound cuts
    # a difference keeps equal halves, cut at its bounds
    pairs = [1.0, 0.9, 1.0, 0.2, 1.0]
    low, high = mean_interval(pairs)
    assert mean_interval(pairs, (0, 1), is_difference=True) == pytest.approx((low, 1.0))
    assert high > 1


def test_paired_differences_cover_and_are_narrower_than_unpaired_ones() -> None:
    """Two methods share the difficulty of a prompt; the truth is a difference of 0.1."""
    rng = torch.Generator().manual_seed(3)
    hits, repetitions, widths = 0, 1000, torch.zeros(2)
    for _ in range(repetitions):
        level = torch.randn(20, 1, dtype=F64, generator=rng)
        noise = 0.5 * torch.randn(2, 20, 4, dtype=F64, generator=rng)
        own = 0.3 * torch.randn(20, 1, dtype=F64, generator=rng)  # of a prompt in one method
        a, b = level + noise[0], level + 0.1 + own + noise[1]
        tables = [
            {(str(p), s): x[p, s].item() for p in range(20) for s in range(4)} for x in (a, b)
        ]
        means = prompt_means(paired_differences(*tables))
        low, high = mean_interval(list(means.values()))
        hits += low <= 0.1 <= high
        ends = mean_interval(b.mean(1).tolist())
        widths += torch.tensor([high - low, ends[1] - ends[0]])
    assert 0.92 <= hits / repetitions <= 0.98
    assert widths[0] < 0.5 * widths[1]


def test_differences_are_of_the_prompts_and_seeds_that_both_have() -> None:
    a = {("duck", 0): 1.0, ("duck", 1): 0.0, ("mug", 0): 1.0}
    b = {("duck", 1): 1.0, ("mug", 0): 1.0, ("mug", 1): 0.0}
    assert paired_differences(a, b) == {("duck", 1): 1.0, ("mug", 0): 0.0}
    assert prompt_means(a) == {"duck": 0.5, "mug": 1.0}


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    values = torch.rand(6, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    units = [prompt for prompt in "abcdef" for _ in range(3)]
    found = jackknife_interval(lambda rows: values.flatten()[rows].mean().item(), units)
    assert found == pytest.approx(mean_interval(values.mean(1).tolist()), abs=1e-9)
    assert jackknife_interval(lambda rows: 0.0, ["a", "a"]) is None
    constant = jackknife_interval(lambda rows: 1.0, units, (0, 1))
    assert constant == pytest.approx(wilson_interval(1.0, 6))


def test_the_jackknife_of_a_recall_near_one_stays_near_one() -> None:
    """Left-out images cost the recall of a whole set more than the set lacks."""
    units = list(range(60))

    def recall(rows: torch.Tensor) -> float:
        return 0.995 if len(rows) == 60 else 0.96 + 0.003 * (rows.sum().item() % 11)

    low, high = jackknife_interval(recall, units, (0, 1))
    assert 0.95 < low < 0.995 < high < 1
    rng = torch.Generator().manual_seed(3)
    for _ in range(100):  # no mean is farther from its bound than its error
        values = torch.rand(8, dtype=F64, generator=rng) ** 0.02
        assert values.std() / math.sqrt(8) <= (1 - values.mean()) * (1 + 1e-9)


def test_the_jackknife_covers_a_variance_over_prompts() -> None:
    rng = torch.Generator().manual_seed(2)
    units, hits = [prompt for prompt in range(60) for _ in range(3)], [0, 0]
    truth = 2 - 2 / 179  # less the covariance of the pairs of one prompt
    for _ in range(400):
        level = torch.randn(60, 1, dtype=F64, generator=rng)
        x = (level + torch.randn(60, 3, dtype=F64, generator=rng)).flatten()
        for i, own in enumerate((units, range(180))):
            low, high = jackknife_interval(lambda rows, x=x: x[rows].var().item(), list(own))
            hits[i] += low <= truth <= high
    assert 0.90 <= hits[0] / 400 <= 0.98
    assert hits[1] < hits[0]  # images as units ignore what a prompt has in common
