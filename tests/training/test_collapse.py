"""What ends a 3D run, and what must not: figures by hand, and balls that shrink, swell and fade."""

import pytest
import torch
from ball_representation import Ball

from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.priors.exact import coloured_shapes
from limbeck.representations.base import Render
from limbeck.training.collapse import BEFORE, CollapseDetector, DegenerateRunError, covered

WELL = {"alpha": 0.2, "border": 0.01, "contrast": 0.2, "t": 0.5}


def told(steps, change, **well):
    """The error of a run whose figures are ``WELL`` but for what ``change`` says of a step; None of one that goes well."""
    diagnosis = CollapseDetector(steps)
    for step in range(1, steps + 1):
        diagnosis.see([{"step": step, **WELL, **well, **change(step)}])
    return diagnosis.found


def test_a_good_run_is_left_alone():
    assert told(1000, lambda step: {}) is None


def test_figures_are_those_of_the_picture():
    alpha = torch.zeros(1, 1, 4, 6)
    alpha[..., 0, :], alpha[..., 1:3, 2:4] = 1.0, 0.5
    image = torch.zeros(1, 3, 2, 2)
    image[:, 0, 0], image[:, 1] = 1.0, 0.7
    figures = covered(Render(image, "image", alpha))
    assert figures["alpha"].item() == pytest.approx((6 + 2) / 24) and figures[
        "border"
    ].item() == pytest.approx(6 / 16)
    assert figures["contrast"].item() == pytest.approx(
        (1 / 3) ** 0.5 / 3
    )  # one of three channels varies
    assert covered(Render(image, "image")) == {}


def test_figures_carry_no_graph():
    balls = Ball().build(coloured_shapes(size=8), 1, 0)
    figures = covered(
        balls.render(RenderRequest(torch.tensor([0, 0]), turntable_cameras(2, 0.0, 3.6, 40.0)))
    )
    assert not any(value.requires_grad for value in figures.values())


def test_an_empty_scene_is_named_once_it_stays_empty():
    error = told(1000, lambda step: {"alpha": 0.001} if step > 80 else {})
    assert (
        error.step == 100
        and "the scene is empty: 0.1 % of" in str(error)
        and str(error).startswith("step 100: ")
    )
    assert told(1000, lambda step: {"alpha": 0.2 * 0.5 ** (step / 60)}).step > 300  # slowly
    assert told(1000, lambda step: {"alpha": 0.001} if step < 45 else {}) is None  # grace
    assert (
        told(1000, lambda step: {"alpha": 0.001} if step % 40 < 10 else {}) is None
    )  # never for long


def test_a_thing_that_covers_the_border_is_saturated():
    error = told(1000, lambda step: {"alpha": 0.995, "border": 0.99} if step > 500 else {})
    assert error.step == 520 and "the opacity is saturated" in str(error)
    assert told(1000, lambda step: {"alpha": 0.99, "border": 0.9} if step > 500 else {}) is None


def test_a_scene_around_the_camera_may_cover_everything():
    assert told(1000, lambda step: {}, alpha=1.0, border=1.0) is None


def test_fog_is_told_from_a_scene_by_its_one_colour():
    error = told(1000, lambda step: {"contrast": 0.004}, alpha=1.0, border=1.0)
    assert error.step == 50 and "inside fog" in str(error) and "--cameras.distance" in str(error)


def test_collapse_after_a_switch_of_times_names_both():
    error = told(1000, lambda step: {"alpha": 0.03, "t": 0.26} if step > 500 else {})
    assert (
        500 < error.step <= 520
        and "the opacity fell from 0.2 to 0.0" in str(error)
        and "from 0.50 to" in str(error)
    )
    error = told(1000, lambda step: {"contrast": 0.02} if step > 500 else {})
    assert "the contrast of the picture fell" in str(error)


def test_a_slow_fall_is_no_collapse():
    """Carving a thing out of a block takes away most of it, over a tenth of the run and more."""
    assert told(1000, lambda step: {"alpha": max(0.5 * 0.5 ** (step / 100), 0.02)}) is None
    assert told(1000, lambda step: {"alpha": 0.5 if step < 50 else 0.08}) is None  # early


def test_figures_that_are_not_finite_and_flat_runs_are_passed_over():
    diagnosis = CollapseDetector(100)
    diagnosis.see({"step": step, "t": 0.5, "gradient": 1.0} for step in range(1, 101))
    diagnosis.see({"step": step, **WELL, "alpha": None} for step in range(1, 101))
    diagnosis.ask()
    assert not diagnosis.recent


def test_the_first_cause_stays_and_does_not_depend_on_when_it_is_asked():
    lines = [{"step": step, **WELL, "alpha": 0.0 if step > 20 else 0.2} for step in range(1, 201)]
    once, often = CollapseDetector(200), CollapseDetector(200)
    once.see(lines)
    for line in lines:
        often.see([line])
    assert str(once.found) == str(often.found) and once.found.step == often.found.step == 30
    with pytest.raises(DegenerateRunError, match="empty"):
        often.ask()
    assert len(once.recent) <= once.window * (BEFORE + 1)


def ball(radius, distance=3.6):
    balls = Ball(radius=radius).build(coloured_shapes(size=16), 1, 0)
    figures = covered(
        balls.render(
            RenderRequest(
                torch.zeros(8, dtype=torch.long), turntable_cameras(8, 15.0, distance, 40.0)
            )
        )
    )
    return {name: value.item() for name, value in figures.items()}


@pytest.mark.parametrize(("radius", "distance", "cause"), [(0.8, 3.6, ""), (0.02, 3.6, "empty"), (3.0, 3.6, "saturated"),
                                                           (4.0, 2.0, "fog")])  # fmt: skip
def test_balls_too_small_too_large_and_around_the_camera(radius, distance, cause):
    well, ill = ball(0.8), ball(radius, distance)
    if cause == "saturated":
        ill["contrast"] = 0.1  # a ball has one colour: as if it were painted
    error = told(400, lambda step: ill if step > 30 else well)
    assert cause in str(error) if cause else error is None
