"""Every parametrisation reads as the same pair (x0, eps), and as diffusers reads it."""

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipeline import normal, worst

from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.schedule import Cosine, Discrete, RectifiedFlow, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand

WORDS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
schedules = st.sampled_from([stable_diffusion_schedule(), Cosine(), RectifiedFlow()])


def truth(schedule, t):
    x0, eps = normal(3, 2, 4, seed=1), normal(3, 2, 4, seed=2)
    t = torch.full((3,), t, dtype=torch.float64)
    return Prediction(x0, eps), schedule.add_noise(x0, eps, t), schedule.alpha(t), schedule.sigma(t)


@given(
    schedule=schedules, t=st.floats(0.02, 0.98), kind=st.sampled_from(["eps", "x0", "v", "flow"])
)
def test_output_then_of_gives_back_the_truth(schedule, t, kind):
    if (kind == "flow" and not isinstance(schedule, RectifiedFlow)) or (
        kind == "v" and isinstance(schedule, RectifiedFlow)
    ):
        return
    said, xt, alpha, sigma = truth(schedule, t)
    read = Prediction.from_output(kind, said.output(kind, alpha, sigma), xt, alpha, sigma)
    assert worst(read.x0, said.x0) < 1e-12 and worst(read.eps, said.eps) < 1e-12


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("tick", [1, 300, 980])
def test_each_parametrisation_is_read_as_diffusers_reads_it(kind, tick):
    theirs = DDIMScheduler(prediction_type=WORDS[kind], clip_sample=False, set_alpha_to_one=True)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.set_timesteps(1)  # the step before this one is then alpha = 1
    ours = Discrete(tuple(theirs.alphas_cumprod.tolist()))
    out, xt = normal(2, 3, 4, 4, seed=3), normal(2, 3, 4, 4, seed=4)
    t = torch.full((2,), tick / 1000, dtype=torch.float64)
    read = Prediction.from_output(kind, out, xt, ours.alpha(t), ours.sigma(t))
    assert worst(read.x0, theirs.step(out, tick, xt).pred_original_sample) < 1e-12
    assert (
        worst(expand(ours.alpha(t), xt) * read.x0 + expand(ours.sigma(t), xt) * read.eps, xt)
        < 1e-12
    )


@pytest.mark.parametrize("kind", ["v", "flow"])
def test_v_and_flow_are_finite_at_both_ends(kind):
    schedule = RectifiedFlow() if kind == "flow" else Cosine()
    for t in (0.0, 1.0):
        said, xt, alpha, sigma = truth(schedule, t)
        read = Prediction.from_output(kind, said.output(kind, alpha, sigma), xt, alpha, sigma)
        assert worst(read.x0, said.x0) < 1e-12 and worst(read.eps, said.eps) < 1e-12


def test_targets_are_the_formulas_of_the_papers():
    said, _, alpha, sigma = truth(Cosine(), 0.3)
    a, s = float(alpha[0]), float(sigma[0])
    assert worst(said.output("v", alpha, sigma), a * said.eps - s * said.x0) == 0
    assert worst(said.output("flow", alpha, sigma), said.eps - said.x0) == 0


@given(scale=st.floats(-10, 200))
def test_lerp_counts_guidance_as_diffusers(scale):
    null, pos = (
        Prediction(normal(2, 3), normal(2, 3, seed=1)),
        Prediction(normal(2, 3, seed=2), normal(2, 3, seed=3)),
    )
    both = null.lerp(pos, scale)
    assert worst(both.eps, null.eps + scale * (pos.eps - null.eps)) < 1e-12 * (1 + abs(scale))
    assert worst(both.x0, null.x0 + scale * (pos.x0 - null.x0)) < 1e-12 * (1 + abs(scale))


def test_unknown_parametrisation_is_named():
    with pytest.raises(Exception, match="velocity") as error:
        Prediction.from_output("velocity", *(normal(1, 2),) * 2, torch.ones(1), torch.ones(1))
    assert type(error.value).__name__ in (
        "ValueError",
        "TypeCheckError",
        "BeartypeCallHintParamViolation",
    )
