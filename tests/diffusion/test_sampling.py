"""Sampling: every step agrees with diffusers, on an exact prior in float64 and on a network."""

from itertools import pairwise

import pytest
import torch
from diffusers import StableDiffusionPipeline
from mixture_inputs import NULL_AND_POS, mixture
from tiny_pipeline import (
    class_conditions,
    f64,
    make_scheduler,
    max_difference,
    normal,
    prompt_conditions,
    rng,
    zero_snr_schedule,
)

from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.sampling import Sampling, sample_x0
from limbeck.diffusion.schedule import (
    CosineSchedule,
    DiscreteSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.priors.exact import GaussianMixture
from limbeck.priors.stable_diffusion import StableDiffusion

#: prediction types of diffusers and their names here
PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v"}


class RecordingPrior:
    """A prior that records the inputs of its calls."""

    def __init__(self, prior):
        self.prior, self.schedule, self.calls = prior, prior.schedule, []

    def __call__(self, xt, t, *conditions):
        self.calls.append((xt, t))
        return self.prior(xt, t, *conditions)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_every_step_equals_that_of_diffusers(prediction_type, steps, eta):
    scheduler = make_scheduler(prediction_type)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    if prediction_type == "v_prediction":
        eta = min(eta, 0.99)  # at 1 and zero terminal SNR, diffusers takes the root of -1e-17
    schedule = DiscreteSchedule(tuple(scheduler.alphas_cumprod.tolist()))
    prior, conditions = RecordingPrior(mixture(schedule)), class_conditions(5, *NULL_AND_POS)
    noise = normal(5, 4)
    sampled = sample_x0(prior, conditions, noise, steps, 3.0, eta, rng(8))
    scheduler.set_timesteps(steps)
    generator, xt = rng(8), noise
    for i, timestep in enumerate(scheduler.timesteps.tolist()):
        called_xt, t = prior.calls[i]
        assert schedule.timestep_index(t).tolist() == [timestep] * 5
        assert max_difference(called_xt, xt) < 1e-11
        pos, null = prior.prior(xt, t, conditions.pos, conditions.null)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        guided = null.lerp(pos, 3.0)
        output = guided.to_output(PREDICTION_TYPES[prediction_type], alpha, sigma)
        # at the last step diffusers adds noise of scale zero, we draw none
        last = i + 1 == steps
        new = None if last else torch.randn(xt.shape, generator=generator).double()
        xt = scheduler.step(
            output,
            timestep,
            xt,
            eta=0.0 if last else eta,
            variance_noise=new if eta else None,
        ).prev_sample
    assert max_difference(sampled, xt) < 1e-11
    assert len(prior.calls) == steps


@pytest.mark.parametrize("eta", [0.0, 0.9])
def test_a_sample_equals_that_of_the_pipeline(folder, eta):
    prior, pipe = StableDiffusion(str(folder)), StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red mug", "two striped cats"]
    noise = normal(2, 4, 8, 8, dtype=torch.float32)
    expected = pipe(
        prompts,
        latents=noise.clone(),
        num_inference_steps=20,
        guidance_scale=4.0,
        eta=eta,
        generator=rng(3),
        output_type="latent",
    ).images
    sampled = sample_x0(prior, prompt_conditions(prior, prompts), noise, 20, 4.0, eta, rng(3))
    assert max_difference(sampled, noise) > 0.5
    assert max_difference(sampled, expected) / float(expected.abs().max()) < 5e-5  # float32


def test_samples_of_a_zero_terminal_snr_schedule_are_finite():
    prior, conditions = mixture(zero_snr_schedule()), class_conditions(6, (1, 1, 1), (1, 1, 1))
    sampled = sample_x0(prior, conditions, normal(6, 4), 50, 1.0, 1.0, rng())
    assert bool(sampled.isfinite().all())


#: every schedule, with the class of its name
SCHEDULES = {
    "stable diffusion": stable_diffusion_schedule(),
    "zero terminal SNR": DiscreteSchedule(
        tuple(torch.linspace(0.9999, 0.0, 1000, dtype=torch.float64).tolist())
    ),
    "cosine": CosineSchedule(),
    "flow": RectifiedFlowSchedule(),
    "shifted flow": RectifiedFlowSchedule(3.0),
    "flow to a least time": RectifiedFlowSchedule(3.0, 0.001),
}


def ancestral_samples(schedule, mean: float, std: float, steps: int, rows: int = 40_000):
    prior = GaussianMixture(f64([[mean]]), f64([std]), schedule=schedule)
    conditions = class_conditions(rows, (1,), (1,))
    return sample_x0(prior, conditions, normal(rows, 1), steps, 1.0, 1.0, rng(4))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_ancestral_samples_have_the_distribution_of_the_data(schedule):
    """200 steps give a standard Gaussian within 3 % on every schedule."""
    sampled = ancestral_samples(schedule, 0.8, 1.0, 200)
    assert float(sampled.std()) == pytest.approx(1.0, rel=0.03)


def bayes_variance(schedule, std: float, steps: int) -> float:
    """Variance of the chain that draws x_s from q(x_s | x_t, x_0 = x0_hat) on N(0, std^2).

    q is computed by conditioning the joint Gaussian of (x_s, x_t) given x_0, where x_t is x_s
    scaled by alpha_t / alpha_s plus independent noise.
    """
    t = schedule.sampling_times(steps)
    levels = list(zip(schedule.alpha(t).tolist(), schedule.sigma(t).tolist(), strict=True))
    variance = 1.0
    for (a, s), (next_a, next_s) in pairwise(levels):
        x0_gain = a * std**2 / (a**2 * std**2 + s**2)  # x0_hat = x0_gain x_t
        covariance = a / next_a * next_s**2  # of x_s and x_t, given x_0
        slope = covariance / s**2
        gain = next_a * x0_gain + slope * (1 - a * x0_gain)
        variance = gain**2 * variance + next_s**2 - slope * covariance
    a, s = levels[-1]
    return (a * std**2 / (a**2 * std**2 + s**2)) ** 2 * variance


@pytest.mark.parametrize("std", [0.08, 0.6])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_ancestral_samples_follow_the_posterior_of_their_schedule(schedule, std):
    """With few steps the chain is not yet the data, but its law is known exactly."""
    rows, steps = 40_000, 12
    variance = bayes_variance(schedule, std, steps)
    sampled = ancestral_samples(schedule, 0.8, std, steps, rows)
    # the chain starts at N(0, 1), not at x_1: where alpha(1) is not 0, the mean is not quite .8
    if float(schedule.alpha(schedule.sampling_times(1))) < 1e-9:
        assert abs(float(sampled.mean()) - 0.8) < 4 * variance**0.5 / rows**0.5
    assert abs(float(sampled.var()) / variance - 1) < 4 * (2 / rows) ** 0.5


def test_a_negative_prompt_that_changes_nothing_is_refused():
    with pytest.raises(ValueError, match="negative_prompt 'fog' changes nothing at guidance 1"):
        Sampling(("a mug",), negative_prompt="fog", guidance=1.0)


@pytest.mark.parametrize(("guidance", "rows_per_step"), [(1.0, 5), (0.0, 5), (3.0, 2 * 5)])
def test_each_step_is_one_call_with_one_or_two_rows_per_image(guidance, rows_per_step):
    prior = mixture(zero_snr_schedule())
    sample_x0(prior, class_conditions(5, *NULL_AND_POS), normal(5, 4), 10, guidance)
    counter = prior.call_counter
    assert (counter.rows, counter.calls) == (10 * rows_per_step, 10)


def test_rows_are_sampled_independently():
    prior, noise = mixture(CosineSchedule()), normal(5, 4)
    conditions = class_conditions(5, *NULL_AND_POS)
    together = sample_x0(prior, conditions, noise, 10, 3.0)
    apart = [sample_x0(prior, conditions[i : i + 1], noise[i : i + 1], 10, 3.0) for i in range(5)]
    assert max_difference(together, torch.cat(apart)) < 1e-13


def test_zero_steps_are_refused():
    prior, conditions = mixture(zero_snr_schedule()), class_conditions(1, (1, 1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="steps"):
        sample_x0(prior, conditions, normal(1, 4), 0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"num_images": 0}, "num_images must be at least 1, not 0"),
        ({"prompts": ()}, "prompt"),
        ({"prompts": ("a", " ")}, "prompt"),
    ],
)
def test_invalid_sampling_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**({"prompts": ("a mug",)} | options))


def test_the_sample_is_the_prediction_of_the_last_step():
    prediction = Prediction(normal(2, 3), normal(2, 3, seed=1))

    class ConstantPrior:
        schedule = CosineSchedule()

        def __call__(self, xt, t, *conditions):
            return [prediction for _ in conditions]

    conditions = class_conditions(2, (1,), (1,))
    sampled = sample_x0(ConstantPrior(), conditions, normal(2, 3), 7, 1.0)
    assert torch.equal(sampled, prediction.x0)
