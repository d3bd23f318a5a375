"""Perp-Neg by azimuth: the published weights of stable-dreamfusion and of threestudio."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.graphics.cameras.perp_neg import stable_dreamfusion_weights, threestudio_weights
from limbeck.graphics.cameras.samplers import Orbit

EPSILON = 1e-3


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def weights_of(orbit: Orbit, azimuths: list[float], elevation: float = 0.0) -> Tensor:
    """Weights of front and side as rows."""
    azimuth = f64(*azimuths).deg2rad()
    camera = orbit_cameras(azimuth, torch.full_like(azimuth, math.radians(elevation)), 3.6, 40.0)
    (front_index, front), (side_index, side) = orbit.perp_neg_weights(camera)
    assert bool((front_index == 0).all())
    assert bool((side_index == 1).all())
    return torch.stack([front, side])


@pytest.mark.parametrize(
    ("azimuth", "front", "side"), [(0, 0.0, 2.0), (90, 2.0, 0.0), (180, 2.0, 1.0)]
)
def test_identity_56_stable_dreamfusion_at_front_side_and_back(azimuth, front, side) -> None:
    orbit = Orbit(perp_neg=2.0, perp_neg_rule="stable-dreamfusion")
    for sign in (1, -1):
        assert weights_of(orbit, [sign * azimuth])[:, 0].tolist() == pytest.approx([front, side])


def test_identity_56_the_front_weight_of_stable_dreamfusion_jumps_and_the_side_hardly() -> None:
    cut = 90 * 0.2  # r = .8
    front, _ = stable_dreamfusion_weights(f64(cut - EPSILON, cut + EPSILON))
    assert float(front[0]) == 0
    assert float(2 * front[1]) == pytest.approx(0.40, abs=5e-3)
    _, side = stable_dreamfusion_weights(f64(72 - EPSILON, 72 + EPSILON))  # r = .2
    assert float(side[1]) == 0
    assert float(2 * side[0]) == pytest.approx(0.0007, abs=5e-5)


@pytest.mark.parametrize(
    ("azimuth", "front", "side"),
    [(0, 0.0, 1.574), (90, 1.574, 0.0), (180, 1.967, 0.394), (45, 0.6892, 0.6892)],
)
def test_identity_56_threestudio_at_front_side_and_back(azimuth, front, side) -> None:
    orbit = Orbit(perp_neg=1.0, perp_neg_rule="threestudio")
    found = weights_of(orbit, [azimuth])[:, 0].tolist()
    assert found == pytest.approx([front, side], abs=1e-3)


def test_identity_56_the_weights_of_threestudio_meet_at_90_degrees() -> None:
    for found, value in zip(
        threestudio_weights(f64(90 - EPSILON, 90, 90 + EPSILON)), (1.574, 0.0), strict=True
    ):
        assert found.tolist() == pytest.approx([value] * 3, abs=1e-3)


def test_perp_neg_scales_the_rule() -> None:
    """ScaleDreamer multiplies threestudio's weights by .5."""
    one, half = (
        weights_of(Orbit(perp_neg=w, perp_neg_rule="threestudio"), [0, 30, 120]) for w in (1.0, 0.5)
    )
    assert torch.allclose(half, one / 2)


@pytest.mark.parametrize("rule", ["stable-dreamfusion", "threestudio"])
def test_views_from_above_have_no_negative_prompts(rule) -> None:
    orbit = Orbit(perp_neg=2.0, perp_neg_rule=rule)
    assert float(weights_of(orbit, [0, 90, 150], elevation=70).abs().max()) == 0


@pytest.mark.parametrize("rule", ["stable-dreamfusion", "threestudio"])
def test_the_prompt_is_interpolated_by_azimuth(rule) -> None:
    orbit = Orbit(perp_neg=2.0, perp_neg_rule=rule)
    azimuth = f64(30, 120).deg2rad()
    camera = orbit_cameras(azimuth, torch.zeros_like(azimuth), 3.6, 40.0)
    expected = torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 2 / 3, 1 / 3, 0]]).double()
    assert orbit.interpolates_prompts
    assert torch.allclose(orbit.view_weights(camera, 2).double(), expected, atol=1e-6)


def test_bad_rules() -> None:
    with pytest.raises(ValueError, match="threestudio has no effect at perp_neg 0: give its"):
        Orbit(perp_neg_rule="threestudio")
    with pytest.raises(ValueError, match="perp_neg_rule must be one of constant, stable-dream"):
        Orbit(perp_neg=1.0, perp_neg_rule="linear")  # type: ignore[arg-type]
