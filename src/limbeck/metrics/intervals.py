"""Confidence intervals whose unit is the prompt.

Images of one prompt are alike: that of an easy prompt is right with most seeds. So seeds are not
independent observations, and an interval over prompts x seeds that ignores this is too narrow. A
Wilson interval over all images of 14 to 100 prompts with 4 to 8 seeds covers the truth in 72 % to
87 % of all tables instead of 95 %. Here the values of a prompt are averaged first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

Z_95 = 1.959964  #: 97.5 % quantile of the standard normal distribution
BOOTSTRAP_FROM = 40  #: prompts; below, a t interval covers better
_RESAMPLES = 9_999
_KEPT_COUNT = 2_000  #: most prompts whose weights in all resamples are kept, 80 MB
_DRAWN_AT_ONCE = 1 << 23  #: values; bounds the memory of the resamples of more prompts
_JACKKNIFE_GROUPS = 20
_LARGEST_LOG = 700.0  #: of a number that is finite
Interval = tuple[float, float]
UNBOUNDED: Interval = (-math.inf, math.inf)
SHARE: Interval = (0.0, 1.0)
POSITIVE: Interval = (0.0, math.inf)
_Key = TypeVar("_Key", bound=tuple[str, Hashable])  #: prompt and seed


def wilson_interval(share: float, count: int) -> Interval:
    """95 % interval of a share of ``count`` independent images.

    Not for images of several prompts with several seeds each: see ``mean_interval``.

    Args:
        share: observed share, 0 to 1.
        count: number of images, at least 1.

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    z2 = Z_95**2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    variance = share * (1 - share) / count + z2 / (4 * count**2)
    half = Z_95 / (1 + z2 / count) * math.sqrt(variance)
    return max(center - half, 0.0), min(center + half, 1.0)


@cache
def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t distribution, by bisection of its distribution function.

    Args:
        freedom: degrees of freedom, at least 1.

    References:
        Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if freedom < 1:
        raise ValueError(f"degrees of freedom must be at least 1, not {freedom}")
    low, high = 1.9, 13.0  # quantiles of infinity and of 1 degree of freedom lie inside
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_central(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _t_central(t: float, freedom: int) -> float:
    """P(|T| < t): finite sums of powers of the cosine of theta = atan(t / sqrt(freedom))."""
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(theta), math.cos(theta)) if odd else (1.0, 1.0)
    for j in range(2 + odd, freedom - 1, 2):
        term *= (j - 1) / j * math.cos(theta) ** 2
        total += term
    if not odd:
        return math.sin(theta) * total
    return 2 / math.pi * (theta + (math.sin(theta) * total if freedom > 1 else 0.0))


@cache
def _bootstrap_weights(count: int) -> Float[Tensor, "resamples n"]:
    """Weight of each of ``count`` prompts in every resample; the same draw at every call."""
    rng = torch.Generator().manual_seed(count)
    drawn = torch.randint(count, (_RESAMPLES, count), generator=rng)
    weights = torch.zeros(_RESAMPLES, count)
    return weights.scatter_add_(1, drawn, torch.ones_like(weights)) / count


def _resampled_means(values: Float[Tensor, "n"]) -> Float[Tensor, "resamples"]:
    """Mean of every resample of values by prompt; the same draw at every call."""
    count = len(values)
    if count <= _KEPT_COUNT:
        return _bootstrap_weights(count) @ values
    rng = torch.Generator().manual_seed(count)
    rows, means = max(1, _DRAWN_AT_ONCE // count), []
    for start in range(0, _RESAMPLES, rows):
        drawn = torch.randint(count, (min(rows, _RESAMPLES - start), count), generator=rng)
        means.append(values[drawn].mean(1))
    return torch.cat(means)


def mean_interval(
    by_prompt: Sequence[float], bounds: Interval = UNBOUNDED, is_difference: bool = False
) -> Interval | None:
    """95 % interval of a mean over prompts, for other prompts and seeds of the same kind.

    Student's t below 40 prompts, the percentile bootstrap over prompts from 40 on. The t interval
    of a metric with two bounds is that of its logit, see ``_t_ends``. Where all prompts have the
    same value, neither sees any spread: the value then has at least the share of all prompts that a
    Wilson interval of n of n leaves, and the rest is anywhere within the bounds.

    Args:
        by_prompt: one value per prompt, its mean over seeds.
        bounds: smallest and largest possible value of the metric; (0, 1) for a share.
        is_difference: whether the values are differences of two values of the metric.

    Returns:
        Lower and upper end; None with fewer than two prompts.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values, count = torch.tensor(list(by_prompt), dtype=torch.float64), len(by_prompt)
    if count < 2:
        return None
    mean, std = values.mean().item(), values.std().item()
    bounds = _difference_bounds(bounds) if is_difference else bounds
    if _is_constant(std, mean, bounds):
        return _constant_interval(mean, count, bounds)
    if count < BOOTSTRAP_FROM:
        return _t_ends(mean, std / math.sqrt(count), t_quantile(count - 1), bounds, is_difference)
    means = _resampled_means((values - mean).float())
    ends = means.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    low, high = (mean + ends).tolist()
    return max(low, bounds[0]), min(high, bounds[1])


def _difference_bounds(bounds: Interval) -> Interval:
    """Smallest and largest difference of two values within bounds."""
    return bounds[0] - bounds[1], bounds[1] - bounds[0]


def _t_ends(
    value: float, error: float, t: float, bounds: Interval, is_difference: bool
) -> Interval:
    """Ends of a t interval within bounds.

    Near a bound values are skewed, and an interval of equal halves crosses the bound on one side
    and ends too early on the other. So the half width is carried over to the logit of the value,
    and the ends back: they stay within the bounds, and coverage is closer to 95 %
    (tests/metrics/test_intervals.py). Of a single bound, whose logarithm has no upper end that is
    of use with two or three values, and of differences, which are nearly symmetric, the interval is
    the usual one, cut at the bounds: this loses no coverage.

    The standard error of a mean is at most the distance to the nearer bound: that of a single value
    that is not at the bound. A statistic that is no mean, such as a recall near 1, may move by more
    when images are left out. Its logit would then end anywhere, so that the distance is taken.

    Args:
        value: the mean, or another statistic.
        error: its standard error.
        t: quantile of Student's distribution.
        bounds: smallest and largest possible value.
        is_difference: whether it is a difference.
    """
    low, high = bounds
    if is_difference or not low < value < high or math.isinf(high - low):
        return max(value - t * error, low), min(value + t * error, high)
    below, above = value - low, high - value
    half = t * min(error, below, above)
    factor = math.exp(min(half / below + half / above, _LARGEST_LOG))  # of the odds
    first, last = (low + (high - low) / (1 + above / below * by) for by in (factor, 1 / factor))
    return first, last


def _is_constant(std: float, value: float, bounds: Interval) -> bool:
    return std <= 1e-12 * max(abs(value), 1.0) and all(map(math.isfinite, bounds))


def _constant_interval(value: float, count: int, bounds: Interval) -> Interval:
    """Interval where all of ``count`` prompts agree, from the share of prompts that may not."""
    share = wilson_interval(1.0, count)[0]
    low, high = (share * value + (1 - share) * bound for bound in bounds)
    return low, high


def prompt_means(values: Mapping[_Key, float]) -> dict[str, float]:
    """Mean over seeds by prompt, of values by prompt and seed."""
    by_prompt: dict[str, list[float]] = {}
    for key, value in values.items():
        by_prompt.setdefault(key[0], []).append(value)
    return {prompt: sum(own) / len(own) for prompt, own in by_prompt.items()}


def paired_differences(a: Mapping[_Key, float], b: Mapping[_Key, float]) -> dict[_Key, float]:
    """``b - a`` for every prompt and seed that both have."""
    return {key: b[key] - value for key, value in a.items() if key in b}


def jackknife_interval(
    statistic: Callable[[Int[Tensor, "rows"]], float],
    units: Sequence[Hashable],
    bounds: Interval = UNBOUNDED,
    is_difference: bool = False,
) -> Interval | None:
    """95 % interval of a statistic of a whole set, by leaving out groups of prompts.

    For distances and other metrics that are no means over images. A bootstrap would repeat images,
    which biases covariances and nearest neighbors. With more than 20 prompts, 20 groups of prompts
    are left out in turn. It is an interval of the expected value at this sample size, with the
    reference held fixed: a bias of small samples is not removed, compare with the floor.

    Args:
        statistic: its value on some rows, given their indices.
        units: the prompt of each row.
        bounds: smallest and largest possible value of the metric.
        is_difference: whether the statistic is the difference of two values of the metric.

    Returns:
        Lower and upper end; None with fewer than two prompts.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11.
    """
    names = list(dict.fromkeys(units))
    groups = min(len(names), _JACKKNIFE_GROUPS)
    if groups < 2:
        return None
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    group_of = {names[unit]: i % groups for i, unit in enumerate(order)}
    group = torch.tensor([group_of[unit] for unit in units])
    values = [statistic((group != g).nonzero()[:, 0]) for g in range(groups)]
    left_out = torch.tensor(values, dtype=torch.float64)
    spread = (left_out - left_out.mean()).square().sum().item()
    error = math.sqrt((groups - 1) / groups * spread)
    value = statistic(torch.arange(len(units)))
    bounds = _difference_bounds(bounds) if is_difference else bounds
    if _is_constant(error, value, bounds):
        return _constant_interval(value, len(names), bounds)
    return _t_ends(value, error, t_quantile(groups - 1), bounds, is_difference)
