"""Collapse of 3D runs: from metrics, and of balls too small, too large and around the camera."""

import pytest
import torch
from ball_representation import Ball

from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import Render
from limbeck.training.collapse import (
    HISTORY_WINDOWS,
    CollapseDetector,
    DegenerateRunError,
    box_contact_message,
    opacity_metrics,
)

HEALTHY = {"alpha": 0.2, "border": 0.01, "contrast": 0.2, "t": 0.5}


def detect(steps, changes, **overrides):
    """The error of a run whose metrics are healthy but for ``changes(step)``, if any."""
    detector = CollapseDetector(steps)
    for step in range(1, steps + 1):
        detector.update([{"step": step, **HEALTHY, **overrides, **changes(step)}])
    return detector.error


def test_a_healthy_run_is_not_stopped():
    assert detect(1000, lambda step: {}) is None


def test_opacity_metrics_of_an_image():
    alpha = torch.zeros(1, 1, 4, 6)
    alpha[..., 0, :], alpha[..., 1:3, 2:4] = 1.0, 0.5
    image = torch.zeros(1, 3, 2, 2)
    image[:, 0, 0], image[:, 1] = 1.0, 0.7
    metrics = opacity_metrics(Render(image, "image", alpha))
    assert metrics["alpha"].item() == pytest.approx((6 + 2) / 24)
    assert metrics["border"].item() == pytest.approx(6 / 16)
    # one of three channels varies
    assert metrics["contrast"].item() == pytest.approx((1 / 3) ** 0.5 / 3)
    assert opacity_metrics(Render(image, "image")) == {}


def test_opacity_metrics_carry_no_graph():
    balls = Ball().build(colored_shapes(size=8), 1, 0)
    request = RenderRequest(torch.tensor([0, 0]), turntable_cameras(2, 0.0, 3.6, 40.0))
    metrics = opacity_metrics(balls.render(request))
    assert not any(value.requires_grad for value in metrics.values())


def test_an_empty_scene_is_reported_once_it_stays_empty():
    error = detect(1000, lambda step: {"alpha": 0.001} if step > 80 else {})
    assert error.step == 100 and str(error).startswith("step 100: ")
    assert "the scene is empty: 0.1 % of" in str(error)
    # slowly, only at first, and never for a whole window
    assert detect(1000, lambda step: {"alpha": 0.2 * 0.5 ** (step / 60)}).step > 300
    assert detect(1000, lambda step: {"alpha": 0.001} if step < 45 else {}) is None
    assert detect(1000, lambda step: {"alpha": 0.001} if step % 40 < 10 else {}) is None


def test_an_object_that_covers_the_border_is_saturated():
    error = detect(1000, lambda step: {"alpha": 0.995, "border": 0.99} if step > 500 else {})
    assert error.step == 520 and "the opacity is saturated" in str(error)
    assert detect(1000, lambda step: {"alpha": 0.99, "border": 0.9} if step > 500 else {}) is None


def test_a_scene_around_the_camera_may_cover_everything():
    assert detect(1000, lambda step: {}, alpha=1.0, border=1.0) is None


def test_fog_differs_from_a_scene_by_its_single_color():
    error = detect(1000, lambda step: {"contrast": 0.004}, alpha=1.0, border=1.0)
    assert (
        error.step == 50
        and "inside fog" in str(error)
        and "--cameras.camera-distance-range" in str(error)
    )


def test_collapse_after_a_change_of_timesteps_names_both():
    error = detect(1000, lambda step: {"alpha": 0.03, "t": 0.26} if step > 500 else {})
    assert 500 < error.step <= 520
    assert "the opacity fell from 0.2 to 0.0" in str(error) and "from 0.50 to" in str(error)
    error = detect(1000, lambda step: {"contrast": 0.02} if step > 500 else {})
    assert "the contrast of the image fell" in str(error)


def test_a_slow_drop_is_no_collapse():
    """Carving an object out of a block removes most of it, over a tenth of the run or more."""
    assert detect(1000, lambda step: {"alpha": max(0.5 * 0.5 ** (step / 100), 0.02)}) is None
    assert detect(1000, lambda step: {"alpha": 0.5 if step < 50 else 0.08}) is None  # early


def test_missing_metrics_and_2d_runs_are_skipped():
    detector = CollapseDetector(100)
    detector.update({"step": step, "t": 0.5, "gradient": 1.0} for step in range(1, 101))
    detector.update({"step": step, **HEALTHY, "alpha": None} for step in range(1, 101))
    detector.raise_if_collapsed()
    assert not detector.recent


def test_the_first_cause_stays_and_does_not_depend_on_how_often_it_is_checked():
    lines = [
        {"step": step, **HEALTHY, "alpha": 0.0 if step > 20 else 0.2} for step in range(1, 201)
    ]
    once, often = CollapseDetector(200), CollapseDetector(200)
    once.update(lines)
    for line in lines:
        often.update([line])
    assert str(once.error) == str(often.error) and once.error.step == often.error.step == 30
    with pytest.raises(DegenerateRunError, match="empty"):
        often.raise_if_collapsed()
    assert len(once.recent) <= once.window * (HISTORY_WINDOWS + 1)


def ball_metrics(radius, distance=3.6):
    balls = Ball(radius=radius).build(colored_shapes(size=16), 1, 0)
    cameras = turntable_cameras(8, 15.0, distance, 40.0)
    render = balls.render(RenderRequest(torch.zeros(8, dtype=torch.long), cameras))
    return {name: value.item() for name, value in opacity_metrics(render).items()}


@pytest.mark.parametrize(
    ("radius", "distance", "cause"),
    [(0.8, 3.6, ""), (0.02, 3.6, "empty"), (3.0, 3.6, "saturated"), (4.0, 2.0, "fog")],
)
def test_balls_too_small_too_large_and_around_the_camera(radius, distance, cause):
    before, after = ball_metrics(0.8), ball_metrics(radius, distance)
    if cause == "saturated":
        after["contrast"] = 0.1  # a ball has a single color: as if it were textured
    error = detect(400, lambda step: after if step > 30 else before)
    assert cause in str(error) if cause else error is None


def test_an_object_at_the_side_of_its_box_is_named_with_what_to_do():
    message = box_contact_message({"top (+y)": 0.123, "left (-x)": 0.001}, 1.2)
    assert "at the top (+y) with 12 % of its surface" in message and "left" not in message
    assert "--representation.bound above 1.2" in message
    assert box_contact_message({"top (+y)": 0.001}, 1.2) == "" == box_contact_message({}, 1.2)
