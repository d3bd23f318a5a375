"""Predictions: every parametrization gives the same (x0, eps), and agrees with diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipeline import max_difference, normal

from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.schedule import (
    CosineSchedule,
    DiscreteSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand

#: prediction types and their names in diffusers
DIFFUSERS_NAMES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
SCHEDULES = [stable_diffusion_schedule(), CosineSchedule(), RectifiedFlowSchedule()]


def true_prediction(schedule, t):
    """The true (x0, eps) with its x_t, alpha and sigma."""
    x0, eps = normal(3, 2, 4, seed=1), normal(3, 2, 4, seed=2)
    t = torch.full((3,), t, dtype=torch.float64)
    return Prediction(x0, eps), schedule.add_noise(x0, eps, t), schedule.alpha(t), schedule.sigma(t)


@given(
    schedule=st.sampled_from(SCHEDULES),
    t=st.floats(0.02, 0.98),
    prediction_type=st.sampled_from(["eps", "x0", "v", "flow"]),
)
def test_from_output_inverts_to_output(schedule, t, prediction_type):
    is_flow = isinstance(schedule, RectifiedFlowSchedule)
    if (prediction_type == "flow" and not is_flow) or (prediction_type == "v" and is_flow):
        return
    truth, xt, alpha, sigma = true_prediction(schedule, t)
    output = truth.to_output(prediction_type, alpha, sigma)
    prediction = Prediction.from_output(prediction_type, output, xt, alpha, sigma)
    assert max_difference(prediction.x0, truth.x0) < 1e-12
    assert max_difference(prediction.eps, truth.eps) < 1e-12


@pytest.mark.parametrize("prediction_type", DIFFUSERS_NAMES)
@pytest.mark.parametrize("timestep", [1, 300, 980])
def test_each_parametrization_is_read_as_in_diffusers(prediction_type, timestep):
    scheduler = DDIMScheduler(
        prediction_type=DIFFUSERS_NAMES[prediction_type], clip_sample=False, set_alpha_to_one=True
    )
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(1)  # so that the previous timestep has alpha = 1
    ours = DiscreteSchedule(tuple(scheduler.alphas_cumprod.tolist()))
    output, xt = normal(2, 3, 4, 4, seed=3), normal(2, 3, 4, 4, seed=4)
    t = torch.full((2,), timestep / 1000, dtype=torch.float64)
    prediction = Prediction.from_output(prediction_type, output, xt, ours.alpha(t), ours.sigma(t))
    x0 = scheduler.step(output, timestep, xt).pred_original_sample
    assert max_difference(prediction.x0, x0) < 1e-12
    signal = expand(ours.alpha(t), xt) * prediction.x0
    assert max_difference(signal + expand(ours.sigma(t), xt) * prediction.eps, xt) < 1e-12


@pytest.mark.parametrize("prediction_type", ["v", "flow"])
def test_v_and_flow_are_finite_at_both_ends(prediction_type):
    schedule = RectifiedFlowSchedule() if prediction_type == "flow" else CosineSchedule()
    for t in (0.0, 1.0):
        truth, xt, alpha, sigma = true_prediction(schedule, t)
        output = truth.to_output(prediction_type, alpha, sigma)
        prediction = Prediction.from_output(prediction_type, output, xt, alpha, sigma)
        assert max_difference(prediction.x0, truth.x0) < 1e-12
        assert max_difference(prediction.eps, truth.eps) < 1e-12


def test_training_targets_are_the_formulas_of_the_papers():
    truth, _, alpha, sigma = true_prediction(CosineSchedule(), 0.3)
    a, s = float(alpha[0]), float(sigma[0])
    assert max_difference(truth.to_output("v", alpha, sigma), a * truth.eps - s * truth.x0) == 0
    assert max_difference(truth.to_output("flow", alpha, sigma), truth.eps - truth.x0) == 0


@given(scale=st.floats(-10, 200))
def test_lerp_counts_guidance_as_diffusers(scale):
    null = Prediction(normal(2, 3), normal(2, 3, seed=1))
    pos = Prediction(normal(2, 3, seed=2), normal(2, 3, seed=3))
    guided, bound = null.lerp(pos, scale), 1e-12 * (1 + abs(scale))
    assert max_difference(guided.eps, null.eps + scale * (pos.eps - null.eps)) < bound
    assert max_difference(guided.x0, null.x0 + scale * (pos.x0 - null.x0)) < bound


def test_an_unknown_prediction_type_is_named():
    with pytest.raises(Exception, match="velocity") as error:
        Prediction.from_output("velocity", *(normal(1, 2),) * 2, torch.ones(1), torch.ones(1))
    assert type(error.value).__name__ in (
        "ValueError",
        "TypeCheckError",
        "BeartypeCallHintParamViolation",
    )
