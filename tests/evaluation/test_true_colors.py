"""Colors of the world's own objects: their own renders have them, stained ones have not."""

import pytest
import torch

from limbeck.evaluation.prompt_metrics import evaluate_prompt, render_true_object
from limbeck.metrics.heldout_views import held_out_cameras
from limbeck.metrics.true_color import MIN_ALPHA, color_overlap, object_colors, true_color
from limbeck.metrics.true_object_colors import true_object_colors
from limbeck.world.pretrained import load_evaluator

CAMERAS = held_out_cameras(3.6, 40.0)


def colors_of(held, images):
    return object_colors(images, held.alpha[:, 0] >= MIN_ALPHA)


@pytest.mark.parametrize("prompt", ["a yellow duck", "a white snowman", "a red chair"])
def test_true_renders_have_true_colors(prompt):
    held, palette = render_true_object(prompt, CAMERAS), true_object_colors(prompt)
    assert true_color(colors_of(held, held.images), palette) > 0.99
    assert color_overlap(colors_of(held, held.images), palette) > 0.9


def test_an_open_color_may_be_any_and_has_no_overlap():
    held = render_true_object("a duck", CAMERAS)
    palette = true_object_colors("a duck")
    found = evaluate_prompt("a duck", [held], CAMERAS, load_evaluator(), palette).metrics
    assert found["true_color"] > 0.99
    assert "color_overlap" not in found


def test_stains_cost_their_share():
    palette = true_object_colors("a yellow duck")
    held = render_true_object("a yellow duck", CAMERAS)
    stained = held.images.clone()
    stained[:, :, :, 32:] = torch.tensor([0.1, 0.2, 0.9]).view(3, 1, 1)  # blue in the right half
    right = ((held.alpha[:, 0, :, 32:] > 0).sum() / (held.alpha > 0).sum()).item()
    clean = true_color(colors_of(held, held.images), palette)
    assert true_color(colors_of(held, stained), palette) == pytest.approx(clean - right, abs=0.01)
