"""True images for comparison: the parts of a folder, and renders of the world."""

import numpy as np
import pytest
import torch

from limbeck.evaluation import references
from limbeck.evaluation.measured_images import FeatureNetwork
from limbeck.evaluation.references import (
    FolderReference,
    WorldReference,
    compared_rows,
    split_reference,
    true_scenes,
)
from limbeck.world.scene import COLORS, OBJECTS, VIEWS


def test_a_reference_is_split_into_parts_without_an_image_in_common():
    features = torch.arange(20.0)[:, None]
    for count, held_out in ((6, 6), (10, 10), (50, 10)):
        reference = split_reference(features, count)
        assert len(reference.held_out) == held_out
        both = torch.cat([reference.features, reference.held_out])[:, 0]
        assert torch.equal(both.sort().values, torch.arange(20.0))
        rows = compared_rows(count, reference)  # as many images as were held out
        assert len(rows) == held_out == len(rows.unique())
    assert torch.equal(split_reference(features, 6).held_out, split_reference(features, 6).held_out)
    keys = [("duck", (0, i)) for i in range(6)]
    assert len(FolderReference(features).for_images(keys).held_out) == 6


def test_scenes_are_those_of_the_prompt():
    rng = np.random.default_rng(0)
    scenes = true_scenes("a yellow duck at night, back view", 30, rng)
    assert {OBJECTS[i] for i in scenes.object} == {"duck"}
    assert {COLORS[i] for i in scenes.color} == {"yellow"}
    assert {VIEWS[i] for i in scenes.view} == {"back"} and set(scenes.pattern) == {0}
    free = true_scenes("a mug", 60, rng)
    assert len(set(free.color)) > 5 and len(set(free.view)) == 4 and len(free) == 60
    with pytest.raises(ValueError, match="'a dream' names none"):
        true_scenes("a dream", 1, rng)


def test_scenes_of_a_view_are_as_many_as_asked(monkeypatch):
    monkeypatch.setattr(references, "_DRAWS_PER_VIEW", 2)  # usually too few in one draw
    for seed in range(10):
        scenes = true_scenes("a duck, back view", 3, np.random.default_rng(seed))
        assert len(scenes) == 3 and {VIEWS[i] for i in scenes.view} == {"back"}


def test_two_renders_stand_for_each_image():
    network = FeatureNetwork("mean", 64, lambda x: x.mean((2, 3)))
    keys = [
        ("a red cube in the snow", (0, 0)),
        ("a red cube in the snow", (0, 1)),
        ("a blue cone at night", (0, 0)),
    ]
    reference = WorldReference(network).for_images(keys)
    assert reference.features.shape == reference.held_out.shape == (3, 3)
    assert not torch.equal(reference.features, reference.held_out)
    snow, night = reference.features[:2].mean(), reference.features[2].mean()
    assert snow > night + 0.2
