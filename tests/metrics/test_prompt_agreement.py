"""Agreement of verdicts with prompts, and the scores of a run."""

import math

import pytest
import torch

from limbeck.metrics.prompt_agreement import agreement
from limbeck.metrics.run_scores import score_images, score_run
from limbeck.world.scene import ATTRIBUTES, OBJECTS


def verdict(**words):
    return [ATTRIBUTES[name].index(words[name]) if name in words else 0 for name in ATTRIBUTES]


def test_agreement_counts_only_named_attributes():
    rejected = verdict(color="red")
    rejected[0] = len(OBJECTS)
    red_mug = verdict(object="mug", color="red")
    striped_blue_mug = verdict(object="mug", color="blue", pattern="striped")
    verdicts = torch.tensor([red_mug, striped_blue_mug, rejected])
    assert agreement(verdicts, ["a red mug"] * 3) == {
        "object": 2 / 3,
        "color": 2 / 3,
        "all": 1 / 3,
        "rejected": 1 / 3,
    }
    assert agreement(verdicts, ["a red mug", "a striped mug", "something else"]) == {
        "object": 1.0,
        "color": 1.0,
        "pattern": 1.0,
        "all": 1.0,
        "rejected": 0.0,
    }


class RedMugEvaluator:
    """An evaluator that sees a red mug everywhere."""

    def judge(self, images):
        return torch.tensor([verdict(object="mug", color="red")] * len(images))

    def features(self, images):
        return images.mean((2, 3))


def test_the_evaluator_judges_only_images_of_the_world():
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = score_images(images, ["a blue mug", "a poem"], RedMugEvaluator())
    first, second = scores["prompts"]
    assert first["object"] == 1.0 and first["color"] == 0.0 and first["all"] == 0.0
    assert "object" not in second and second["diversity"] > 0
    assert scores["mean"]["object"] == 1.0
    mean = (first["saturation"] + second["saturation"]) / 2
    assert scores["mean"]["saturation"] == pytest.approx(mean)
    small = score_images(images[..., :32, :32], ["a blue mug"], RedMugEvaluator())
    assert "object" not in small["mean"]


def test_a_run_without_objects_of_the_world_is_scored_without_the_evaluator():
    scores = score_run(torch.rand(2, 3, 24, 24), ["a red disc"], 2)
    assert set(scores["mean"]) == {"saturation", "clipped", "total_variation", "diversity"}
    assert all(math.isfinite(value) for value in scores["mean"].values())
    with pytest.raises(ValueError, match="2 images are not 3"):
        score_run(torch.rand(2, 3, 24, 24), ["a red disc"], 3)
