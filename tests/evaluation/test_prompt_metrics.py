"""Metrics of particles, against true objects, objects with many faces, and values by hand."""

import pytest
import torch
from ball_representation import Object
from tiny_clip import write_clip

from limbeck.evaluation.prompt_metrics import (
    PromptFeatures,
    PromptImages,
    clip_metrics,
    evaluate_prompt,
    frechet_metric,
    mean_metrics,
    particle_diversity,
    render_true_object,
    seed_diversity,
)
from limbeck.metrics.clip import CLIPSimilarity
from limbeck.metrics.heldout_views import HeldOutImages, held_out_cameras, render_held_out
from limbeck.metrics.r_precision import distractor_prompts, r_precision
from limbeck.priors.exact import colored_shapes
from limbeck.world.pretrained import load_evaluator
from limbeck.world.scene import SIDED

CAMERAS = held_out_cameras(3.6, 40.0)


@pytest.fixture(scope="module")
def evaluator():
    return load_evaluator()


@pytest.fixture(scope="module")
def prior():
    """A prior of the world's image size that loads quickly; only its size matters here."""
    return colored_shapes(size=64)


def test_reference_images_agree_with_their_textureless_renders():
    """Where the colored object covers the image, and where the white one does."""
    images = render_true_object("a red sphere in the sky", CAMERAS)
    # the sky is bluer than red
    is_white = (images.textureless[:, 0] - images.textureless[:, 2]).abs() < 1e-3
    is_red = images.images[:, 0] > images.images[:, 2]
    assert images.textureless.shape == (32, 3, 64, 64)
    # except for pixels at the edge
    assert (is_white == is_red).float().mean() > 0.985
    assert 0.2 < is_white.float().mean() < 0.6


# Diversity


def test_diversity_compares_the_same_view_of_different_particles():
    # one particle, four very different views
    ramp = torch.linspace(0, 1, 4).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    particle, black = HeldOutImages(ramp, None), HeldOutImages(ramp * 0, None)
    assert particle_diversity([particle]) == {}
    assert particle_diversity([particle, particle])["diversity"] == 0
    found = particle_diversity([particle, black])["diversity"]
    assert found == pytest.approx(ramp.mean().item(), abs=1e-6)


def gray_particles(*grays, num_views=2, features=None):
    """Particles of one gray each; all views but the first are half as bright."""
    images = torch.tensor(grays, dtype=torch.uint8).view(-1, 1, 1, 1, 1)
    images = images.repeat(1, num_views, 3, 4, 4)
    images[:, 1:] //= 2
    return PromptImages(images, features)


def swap_views(images):
    return PromptImages(images.images[:, [1, 0]])


def test_diversity_across_seeds_is_between_particles_of_different_runs():
    assert seed_diversity([(0, gray_particles(0, 200))]) == {}
    # two runs of one seed
    assert seed_diversity([(3, gray_particles(0)), (3, gray_particles(200))]) == {}
    two = seed_diversity([(0, gray_particles(0)), (1, gray_particles(200))])
    assert two == {"diversity_seeds": pytest.approx((200 + 100) / 2 / 255)}
    # between the runs, whatever the particles within one: (20 + 220 + 60 + 140) / 4
    several = seed_diversity([(0, gray_particles(0, 80)), (1, gray_particles(20, 220))])
    assert several["diversity_seeds"] == pytest.approx(110 * 0.75 / 255)
    runs = [(0, gray_particles(0)), (1, gray_particles(0)), (2, gray_particles(100))]
    assert seed_diversity(runs)["diversity_seeds"] == pytest.approx(200 / 3 * 0.75 / 255)


def test_diversity_across_seeds_compares_the_same_view():
    gray = gray_particles(100)
    found = seed_diversity([(0, gray), (1, swap_views(gray))])
    assert found["diversity_seeds"] == pytest.approx(50 / 255)
    two = swap_views(gray_particles(0, 200))
    # half of the pairs are of different particles
    found = seed_diversity([(0, two), (1, two)])
    assert found["diversity_seeds"] == pytest.approx(75 / 255)


def test_feature_diversity_across_seeds_is_one_minus_the_cosine():
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    y = torch.tensor([[[3.0, 3.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, -5.0]]])
    a, b = gray_particles(0, features=x), gray_particles(0, 0, features=y)
    found = seed_diversity([(0, a), (1, b)])
    expected = ((1 - 0.5**0.5) + 1 + 0 + 2) / 4
    assert found["feature_diversity_seeds"] == pytest.approx(expected)
    assert found["diversity_seeds"] == 0


def test_diversity_across_seeds_agrees_with_diversity_for_single_particles():
    images = torch.rand(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    stored = (images * 255).round().byte()
    across = seed_diversity([(seed, PromptImages(stored[seed : seed + 1])) for seed in (0, 1)])
    within = particle_diversity([HeldOutImages(particle / 255, None) for particle in stored])
    assert across["diversity_seeds"] == pytest.approx(within["diversity"], abs=1e-9)


# The evaluator on true and false objects


def evaluate_object(evaluator, prior, **options):
    config = Object(**options)
    images = render_held_out(config.build(prior, 1, 0), prior, 0, CAMERAS)
    prompt = f"a {config.color} {config.object}"
    return evaluate_prompt(prompt, [images], CAMERAS, evaluator)


def test_a_true_duck_reaches_nearly_everything(evaluator, prior):
    found = evaluate_object(evaluator, prior)
    metrics = found.metrics
    assert metrics["object"] >= 0.9 and metrics["color"] >= 0.95
    assert metrics["r_precision"] >= 0.9 and metrics["view_accuracy"] >= 0.85
    assert metrics["janus"] == 0 and metrics["rejected"] <= 0.1
    assert len(found.verdicts) == 1 and len(found.verdicts[0]) == 32
    assert "duck yellow plain" in found.verdicts[0][0]


def test_the_view_that_a_prompt_names_is_not_that_of_every_camera(evaluator, prior):
    images = render_held_out(Object().build(prior, 1, 0), prior, 0, CAMERAS)
    plain, front = (
        evaluate_prompt(prompt, [images], CAMERAS, evaluator).metrics
        for prompt in ("a yellow duck", "a yellow duck, front view")
    )
    assert front["all"] == plain["all"] > 0.8 and "view" not in front


def test_a_duck_with_many_faces_is_detected(evaluator, prior):
    eight = evaluate_object(evaluator, prior, faces=8).metrics
    assert eight["object"] >= 0.8 and eight["janus"] >= 0.9 and eight["view_accuracy"] <= 0.6
    two = evaluate_object(evaluator, prior, faces=2).metrics
    assert two["janus"] >= 0.9 and two["janus_side"] <= 0.2


@pytest.mark.parametrize("name", SIDED)
def test_a_mirrored_object_is_detected(evaluator, prior, name):
    true = evaluate_object(evaluator, prior, object=name, color="green").metrics
    mirrored = evaluate_object(evaluator, prior, object=name, color="green", mirrored=True).metrics
    assert true["mirrored"] <= 0.1 and mirrored["mirrored"] >= 0.9
    # by the four views alone, the two are the same
    assert true["view_accuracy"] == pytest.approx(mirrored["view_accuracy"], abs=0.15)


def test_a_house_has_no_left_and_right(evaluator, prior):
    assert "mirrored" not in evaluate_object(evaluator, prior, object="house").metrics


def test_an_object_without_distinct_views_has_no_view_metrics(evaluator, prior):
    metrics = evaluate_object(evaluator, prior, object="cone", color="red").metrics
    assert metrics["object"] >= 0.9
    assert not {"view_accuracy", "janus", "janus_side", "mirrored"} & set(metrics)


def test_another_object_is_another_object(evaluator, prior):
    images = render_held_out(Object("car", "red").build(prior, 1, 0), prior, 0, CAMERAS)
    metrics = evaluate_prompt("a yellow duck", [images], CAMERAS, evaluator).metrics
    assert max(metrics[name] for name in ("object", "color", "r_precision", "all")) <= 0.05


# Means, Fréchet distance and CLIP


def test_means_are_over_the_rows_that_have_the_metric():
    assert mean_metrics([{"a": 1.0}, {"a": 0.0, "b": 3.0}]) == {"a": 0.5, "b": 3.0}


def test_the_frechet_distance_needs_enough_images():
    rng = torch.Generator().manual_seed(0)

    def draws(n, shift, prompt="a"):
        parts = [torch.randn(n, 4, generator=rng) + s for s in (0, shift, shift)]
        return PromptFeatures(prompt, *parts)

    assert frechet_metric([draws(100, 0.0), draws(100, 0.0)]) == {}
    assert frechet_metric([draws(4000, 0.0)])["frechet"] < 0.05
    found = frechet_metric([draws(4000, 2.0)])
    assert found["frechet"] == pytest.approx(16, rel=0.1) and found["frechet_floor"] < 0.05
    assert "frechet_interval" not in found  # of one prompt
    runs = [draws(1000, 2.0, prompt) for prompt in "abcd"]
    low, high = frechet_metric(runs)["frechet_interval"]
    assert 12 < low < 16 < high < 20
    # further runs of the same prompts are no further prompts
    doubled = frechet_metric(runs * 2)["frechet_interval"]
    assert doubled == pytest.approx((low, high), rel=0.01)


def test_clip_compares_colored_and_textureless_images(tmp_path, prior):
    clip = CLIPSimilarity(write_clip(tmp_path / "clip"))
    images = render_held_out(Object().build(prior, 1, 0), prior, 0, CAMERAS)
    others = distractor_prompts("a yellow duck")
    metrics = clip_metrics("a yellow duck", [images], clip, ["a yellow duck", *others])
    texts = ["a yellow duck", *others]
    assert metrics["clip"] == r_precision(clip.similarity(images.images[:16], texts), 0)
    shown = clip.similarity(images.textureless[:16], texts)
    assert metrics["clip_shape"] == r_precision(shown, 0)
    score = clip.similarity(images.images[:16], texts)[:, 0].mean().item()
    assert metrics["clip_score"] == pytest.approx(score, abs=1e-6)
    with pytest.raises(ValueError, match="needs other texts"):
        clip_metrics("a dream", [images], clip, ["a dream"])


class BrightnessCLIP:
    """A stand-in for CLIP: the first text fits as well as the image is bright, others by a half."""

    def similarity(self, images, texts):
        scores = torch.full((len(images), len(texts)), 0.5)
        scores[:, 0] = images.mean((1, 2, 3))
        return scores


def test_clip_judges_the_shape_by_the_textureless_renders_of_all_particles():
    """Of the first 16 cameras 4 renders of one particle and 12 of the other are bright."""
    views = torch.arange(32).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    dark = torch.zeros(32, 3, 4, 4)
    particles = [HeldOutImages(dark, (views < count).float()) for count in (4, 12)]
    found = clip_metrics("a", particles, BrightnessCLIP(), ["a", "b"])
    assert (found["clip"], found["clip_shape"]) == (0, 0.5)
    colored = [HeldOutImages(p.textureless, p.images) for p in particles]
    found = clip_metrics("a", colored, BrightnessCLIP(), ["a", "b"])
    assert (found["clip"], found["clip_shape"]) == (0.5, 0)
    assert "clip_shape" not in clip_metrics(
        "a", [HeldOutImages(dark, None)], BrightnessCLIP(), ["a", "b"]
    )
