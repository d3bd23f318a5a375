"""Figures of merit against values worked out by hand."""

import math

import pytest
import torch

from limbeck.metrics.feature_diversity import feature_diversity
from limbeck.metrics.frechet import frechet_distance
from limbeck.metrics.image_statistics import clipped, diversity, saturation, variation
from limbeck.metrics.prompt_agreement import agreement
from limbeck.metrics.run_scores import score_pictures, scores
from limbeck.world.prompt_parser import judgeable_attributes, parse_prompt
from limbeck.world.scene import ATTRIBUTES, BACKGROUNDS, COLOURS, OBJECTS, PATTERNS, VIEWS, caption


def plain(*rgb):
    return torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 4, 4)


def test_saturation_is_that_of_hsv():
    import colorsys

    images = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    by_hand = [
        colorsys.rgb_to_hsv(*pixel)[1]
        for pixel in images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    ]
    assert saturation(images) == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-6)
    assert saturation(plain(0.0, 0.0, 0.0)) == 0.0


def test_clipped_counts_what_8_bits_cannot_tell_from_the_ends():
    image = torch.tensor([0.0, 0.001, 0.999, 1.0, 0.01, 0.5]).view(1, 3, 1, 2)
    assert clipped(image) == pytest.approx(4 / 6)


def test_variation_of_stripes_is_the_share_of_steps():
    image = torch.zeros(1, 3, 4, 4)
    image[..., 1::2] = 1
    assert variation(image) == pytest.approx(0.5)  # every pair across differs by 1, no pair down
    assert variation(plain(0.2, 0.4, 0.6)) == 0.0


def test_diversity_is_the_mean_over_pairs():
    grey = torch.cat([plain(v, v, v) for v in (0.0, 0.3, 0.9)])
    assert diversity(grey) == pytest.approx((0.3 + 0.9 + 0.6) / 3, abs=1e-6)
    assert diversity(grey[:1]) is None


def test_feature_diversity_is_a_cosine_distance():
    images = torch.cat([plain(1.0, 0.0, 0.0), plain(0.0, 0.5, 0.0), plain(0.2, 0.0, 0.0)])
    assert feature_diversity(images, lambda x: x.mean((2, 3))) == pytest.approx(2 / 3, abs=1e-6)


def with_moments(n, mean, root):
    """A set whose mean and covariance are exactly ``mean`` and ``root root^T``."""
    x = torch.randn(n, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return x @ root.T + mean


def test_frechet_is_exact_on_gaussians():
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    # in a common frame: |m|^2 + sum (sqrt a - sqrt b)^2
    turn = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    )[0]
    a = turn @ torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) @ turn.T
    b = turn @ torch.diag(torch.tensor([2.0, 2.0, 0.5], dtype=torch.float64)) @ turn.T
    found = frechet_distance(
        with_moments(50, torch.zeros(3, dtype=torch.float64), a), with_moments(60, mean, b)
    )
    assert found == pytest.approx(5.25 + 1 + 0 + 6.25, abs=1e-9)


def test_frechet_without_a_common_frame_and_with_few_rows():
    rng = torch.Generator().manual_seed(3)
    x, y = (torch.randn(n, 6, dtype=torch.float64, generator=rng) for n in (40, 30))
    a, b = torch.cov(x.T), torch.cov(y.T)
    roots = torch.linalg.eigvals(a @ b).real.clamp_min(0).sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * roots
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet_distance(x[:3], x[:3]) == pytest.approx(
        0, abs=1e-6
    )  # a covariance without full rank
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet_distance(x[:1], y)


def test_said_reads_every_caption_of_the_world():
    for i, obj in enumerate(OBJECTS):
        for j in range(10):
            c, p, b, v = j % len(COLOURS), j % len(PATTERNS), j % len(BACKGROUNDS), j % len(VIEWS)
            text = caption(obj, COLOURS[c], PATTERNS[p], BACKGROUNDS[b], VIEWS[v])
            assert parse_prompt(text) == {
                "object": i,
                "colour": c,
                "pattern": p,
                "background": b,
                "view": v,
            }, text


def test_said_reads_other_orders_and_leaves_out_what_is_not_one_thing():
    assert parse_prompt("On GRASS: a mug, red, striped") == parse_prompt(
        "a striped red mug on grass"
    )
    assert parse_prompt("a snowman") == {"object": OBJECTS.index("snowman")}  # no snow in it
    assert "colour" not in parse_prompt("a red cube beside a blue one")
    assert parse_prompt("a red disc") == {"colour": COLOURS.index("red")}
    assert judgeable_attributes("a red disc") == {}
    assert "view" not in judgeable_attributes("a red sphere, side view")
    assert "view" in judgeable_attributes(
        "a red sphere, overhead view"
    ) and "view" in judgeable_attributes("a red car, side view")


def verdict(**words):
    return [ATTRIBUTES[name].index(words[name]) if name in words else 0 for name in ATTRIBUTES]


def test_agreement_counts_only_what_is_said():
    rejected = verdict(colour="red")
    rejected[0] = len(OBJECTS)
    rows = torch.tensor(
        [
            verdict(object="mug", colour="red"),
            verdict(object="mug", colour="blue", pattern="striped"),
            rejected,
        ]
    )
    found = agreement(rows, ["a red mug"] * 3)
    assert found == {"object": 2 / 3, "colour": 2 / 3, "all": 1 / 3, "rejected": 1 / 3}
    mixed = agreement(rows, ["a red mug", "a striped mug", "something else"])
    assert mixed == {"object": 1.0, "colour": 1.0, "pattern": 1.0, "all": 1.0, "rejected": 0.0}


class Says:
    """An evaluator that sees a red mug everywhere."""

    def judge(self, images):
        return torch.tensor([verdict(object="mug", colour="red")] * len(images))

    def features(self, images):
        return images.mean((2, 3))


def test_scores_judge_only_the_worlds_pictures():
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = scores(images, ["a blue mug", "a poem"], Says())
    first, second = found["prompts"]
    assert first["object"] == 1.0 and first["colour"] == 0.0 and first["all"] == 0.0
    assert "object" not in second and second["diversity"] > 0
    assert found["mean"]["object"] == 1.0
    assert found["mean"]["saturation"] == pytest.approx(
        (first["saturation"] + second["saturation"]) / 2
    )
    assert "object" not in scores(images[..., :32, :32], ["a blue mug"], Says())["mean"]


def test_score_pictures_needs_no_evaluator_where_nothing_can_be_judged():
    found = score_pictures(torch.rand(2, 3, 24, 24), ["a red disc"], 2)
    assert set(found["mean"]) == {"saturation", "clipped", "variation", "diversity"}
    assert all(math.isfinite(value) for value in found["mean"].values())
    with pytest.raises(ValueError, match="2 pictures are not 3"):
        score_pictures(torch.rand(2, 3, 24, 24), ["a red disc"], 3)
