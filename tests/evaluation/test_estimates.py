"""Which differences between two sets of images are estimated."""

import pytest
import torch

from limbeck.evaluation.estimates import (
    estimate_all,
    estimate_differences,
    estimate_mean,
)
from limbeck.evaluation.image_sets import pair_unit
from limbeck.evaluation.image_tables import difference_table
from limbeck.evaluation.measured_images import MeasuredImages
from limbeck.metrics.bounds import metric_bounds
from limbeck.metrics.intervals import jackknife_interval, mean_interval, wilson_interval
from limbeck.metrics.set_metrics import SET_METRICS


def measured(per_prompt, **values):
    keys = tuple((prompt, (0, i)) for prompt in ("duck", "mug", "car") for i in range(per_prompt))
    features = torch.randn(len(keys), 4, generator=torch.Generator().manual_seed(per_prompt))
    by_prompt = {
        name: {(prompt, (0, 0)): v + i for i, prompt in enumerate(("duck", "mug", "car"))}
        for name, v in values.items()
    }
    return MeasuredImages("set", keys, features, by_prompt)


def test_what_depends_on_the_number_of_particles_is_compared_at_one_number():
    few = measured(2, sliced_wasserstein=3.0, energy_distance=1.0)
    many = measured(4, sliced_wasserstein=2.0, energy_distance=1.5)
    found = estimate_differences(few, many)
    assert "sliced_wasserstein" not in found
    assert found["energy_distance"].value == pytest.approx(0.5)  # which is unbiased
    assert "sliced_wasserstein" in estimate_differences(few, measured(2, sliced_wasserstein=2.0))


def test_edits_of_a_prompt_are_compared_to_its_law_together():
    def edits(count, **values):
        units = [pair_unit("dog", "cat", f"cat-{i}.png") for i in range(count)]
        keys = tuple((unit, (0, i)) for i, unit in enumerate(units))
        by_prompt = {name: {("dog", (0, 0)): value} for name, value in values.items()}
        return MeasuredImages(
            "edits",
            keys,
            torch.randn(count, 4, generator=torch.Generator().manual_seed(count)),
            by_prompt,
        )

    few = edits(2, sliced_wasserstein=3.0)
    same, more = (edits(count, sliced_wasserstein=2.0) for count in (2, 3))
    assert estimate_differences(few, same)["sliced_wasserstein"].value == pytest.approx(-1.0)
    assert "sliced_wasserstein" not in estimate_differences(few, more)


def test_sets_without_a_common_image_have_no_difference():
    a = measured(2, energy_distance=1.0)
    b = MeasuredImages("b", (("cone", (0, 0)),), torch.zeros(1, 4), {})
    assert estimate_differences(a, b) == {}


def test_prompts_are_the_unit_unless_there_is_one():
    values = {("duck", (0, i)): float(i < 6) for i in range(8)}
    single = estimate_mean(values, (0, 1))
    assert single.unit == "8 images of 1 prompt"
    assert single.interval == pytest.approx(wilson_interval(0.75, 8))
    both = estimate_mean(values | {("mug", (0, i)): 0.0 for i in range(2)}, (0, 1))
    assert both.value == 0.375 and both.unit == "2 prompts"  # not 6 of 10
    assert both.interval == pytest.approx(mean_interval([0.75, 0.0], (0, 1)))
    assert estimate_all(measured(2))["vendi"].unit == "3 prompts"


def test_particles_of_one_run_are_no_independent_seeds():
    """Of one prompt the runs are counted, each with the mean over its particles."""
    values = {("duck", (seed, i)): seed + 0.1 * i for seed in range(2) for i in range(4)}
    found = estimate_mean(values, (-10, 10))
    assert found.unit == "2 seeds of 1 prompt" and found.count == 8
    assert found.value == pytest.approx(0.65)
    assert found.interval == pytest.approx(mean_interval([0.15, 1.15], (-10, 10)))
    images = MeasuredImages("set", tuple(values), torch.randn(8, 4), {})
    assert estimate_all(images)["vendi"].unit == "2 seeds of 1 prompt"
    edits = {(pair_unit("a", "b", "c"), key[1]): value for key, value in values.items()}
    assert estimate_mean(edits, (-10, 10)).unit == "2 seeds of 1 pair"
    assert estimate_mean({("duck", (0, 0)): 1.0}, (0, 1)).unit == "1 prompt"


def test_a_difference_has_the_interval_of_paired_values():
    """It splits its sweeps in equal halves, as those of the leaderboard, unlike a metric's own."""
    prompts = ("duck", "mug", "car", "house")
    a = {(prompt, (0, 0)): v for prompt, v in zip(prompts, (0.9, 1.0, 0.8, 0.9), strict=True)}
    b = {(prompt, (0, 0)): v for prompt, v in zip(prompts, (0.2, 0.1, 0.0, 0.3), strict=True)}
    features = torch.eye(4)
    sets = [MeasuredImages("s", tuple(own), features, {"object": own}) for own in (b, a)]
    found = estimate_differences(*sets)["object"]
    expected = mean_interval([0.7, 0.9, 0.8, 0.6], metric_bounds("object"), is_difference=True)
    assert found.value == pytest.approx(0.75) and found.interval == pytest.approx(expected)
    assert found.interval != pytest.approx(mean_interval([0.7, 0.9, 0.8, 0.6], (-1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vendi", "kid", "cmmd", "density", "coverage"])
def test_intervals_of_set_metrics_cover_their_expectation(name):
    """16 prompts with 4 seeds that have half of their variance in common."""
    (metric,) = (m for m in SET_METRICS if m.name == name)
    rng = torch.Generator().manual_seed(1)
    reference = torch.randn(64, 6, generator=rng)

    def draw():
        level = torch.randn(16, 1, 6, generator=rng) + torch.randn(16, 4, 6, generator=rng)
        return (0.7 * level + 0.4).flatten(0, 1)

    truth = sum(metric.function(draw(), reference) for _ in range(2000)) / 2000
    units, hits = [prompt for prompt in range(16) for _ in range(4)], 0
    for _ in range(400):
        x = draw()
        low, high = jackknife_interval(
            lambda rows, x=x: metric.function(x[rows], reference), units, metric.bounds
        )
        hits += low <= truth <= high
    assert 0.90 <= hits / 400 <= 0.99


def test_differences_of_shares_are_points():
    own = estimate_mean({("a", (0, 0)): -0.053, ("b", (0, 0)): -0.02}, (0, 1), is_difference=True)
    text = "\n".join(difference_table({"object": own}))
    assert "points" in text and " % " not in text.replace("95 % interval", "")
