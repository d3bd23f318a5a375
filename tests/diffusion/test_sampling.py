"""Sampling: step for step what diffusers does, on an exact prior in float64 and on a network."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_pipeline import classes, normal, rng, scheduler_of, spoken, worst, zero_terminal

from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.sampling import Sampling, sample
from limbeck.diffusion.schedule import Cosine, Discrete
from limbeck.priors.exact import GaussianMixture
from limbeck.priors.stable_diffusion import StableDiffusion

WORDS = {"epsilon": "eps", "v_prediction": "v"}


class Watched:
    """A prior that writes down what it was asked and said."""

    def __init__(self, prior):
        self.prior, self.schedule, self.asked = prior, prior.schedule, []

    def __call__(self, xt, t, *conditions):
        self.asked.append((xt, t))
        return self.prior(xt, t, *conditions)


def mixture(schedule) -> GaussianMixture:
    stds = torch.tensor([0.3, 0.6, 1.0], dtype=torch.float64)
    return GaussianMixture(normal(3, 4, seed=1), stds, schedule=schedule)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("word", WORDS)
def test_every_step_is_that_of_diffusers(word, steps, eta):
    scheduler = scheduler_of(word)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    if word == "v_prediction":
        eta = min(eta, 0.99)  # at 1 and without terminal signal theirs takes the root of -1e-17
    schedule = Discrete(tuple(scheduler.alphas_cumprod.tolist()))
    prior, conditions, start = (
        Watched(mixture(schedule)),
        classes(5, (1, 1, 1), (0.1, 0.1, 0.8)),
        normal(5, 4),
    )
    got = sample(prior, conditions, start, steps, 3.0, eta, rng(8))
    scheduler.set_timesteps(steps)
    noise, xt = rng(8), start
    for i, tick in enumerate(scheduler.timesteps.tolist()):
        asked, t = prior.asked[i]
        assert schedule.tick(t).tolist() == [tick] * 5
        assert worst(asked, xt) < 1e-11
        pos, null = prior.prior(xt, t, conditions.pos, conditions.null)
        out = null.lerp(pos, 3.0).output(WORDS[word], schedule.alpha(t), schedule.sigma(t))
        last = i + 1 == steps
        # theirs adds noise of scale zero to the last step, ours none
        fresh = torch.zeros_like(xt) if last else torch.randn(xt.shape, generator=noise).double()
        xt = scheduler.step(
            out,
            tick,
            xt,
            eta=0.0 if last else eta,
            variance_noise=fresh if eta and not last else None,
        ).prev_sample
    assert worst(got, xt) < 1e-11
    assert len(prior.asked) == steps


@pytest.mark.parametrize("eta", [0.0, 0.9])
def test_a_sample_is_that_of_the_pipeline(folder, eta):
    prior, pipe = StableDiffusion(str(folder)), StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    texts = ["a red mug", "two striped cats"]
    start = normal(2, 4, 8, 8, dtype=torch.float32)
    theirs = pipe(
        texts,
        latents=start.clone(),
        num_inference_steps=20,
        guidance_scale=4.0,
        eta=eta,
        generator=rng(3),
        output_type="latent",
    ).images
    ours = sample(prior, spoken(prior, texts), start, 20, 4.0, eta, rng(3))
    assert worst(ours, start) > 0.5
    assert worst(ours, theirs) / float(theirs.abs().max()) < 5e-5  # float32


def test_a_zero_terminal_schedule_starts_from_any_noise_and_stays_finite():
    prior = mixture(zero_terminal())
    got = sample(prior, classes(6, (1, 1, 1), (1, 1, 1)), normal(6, 4), 50, 1.0, 1.0, rng())
    assert bool(got.isfinite().all())


def test_ancestral_samples_have_the_moments_their_chain_has():
    """On a Gaussian every step is affine, so mean and variance of the chain are known; what is drawn must have them."""
    std, rows, n = 0.6, 40_000, 12
    schedule = Cosine()
    prior = GaussianMixture(
        torch.tensor([[0.8]], dtype=torch.float64),
        torch.tensor([std], dtype=torch.float64),
        schedule=schedule,
    )
    times = schedule.sampling_times(n).tolist()
    level = lambda t: [
        float(f(torch.tensor([t], dtype=torch.float64))) for f in (schedule.alpha, schedule.sigma)
    ]  # noqa: E731
    variance = 1.0
    for t, later in zip(times, [*times[1:], 0.0], strict=True):
        (a, s), (b, r) = level(t), level(later)
        fresh = (r / s) ** 2 * (1 - (a / b) ** 2)
        gain = (b * a * std**2 + (r**2 - fresh) ** 0.5 * s) / (a**2 * std**2 + s**2)
        variance = gain**2 * variance + fresh
    got = sample(prior, classes(rows, (1,), (1,)), normal(rows, 1), n, 1.0, 1.0, rng(4))
    assert abs(float(got.mean()) - 0.8) < 4 * variance**0.5 / rows**0.5
    assert abs(float(got.var()) / variance - 1) < 4 * (2 / rows) ** 0.5


def test_guidance_one_asks_once_and_more_asks_twice():
    prior = mixture(zero_terminal())
    for guidance, rows in ((1.0, 5 * 10), (0.0, 5 * 10), (3.0, 5 * 10 * 2)):
        before = prior.meter.rows, prior.meter.calls
        sample(prior, classes(5, (1, 1, 1), (0.1, 0.1, 0.8)), normal(5, 4), 10, guidance)
        assert (prior.meter.rows - before[0], prior.meter.calls - before[1]) == (rows, 10)


def test_rows_are_sampled_each_for_itself():
    prior, conditions, start = (
        mixture(Cosine()),
        classes(5, (1, 1, 1), (0.1, 0.1, 0.8)),
        normal(5, 4),
    )
    whole = sample(prior, conditions, start, 10, 3.0)
    apart = torch.cat(
        [sample(prior, conditions[i : i + 1], start[i : i + 1], 10, 3.0) for i in range(5)]
    )
    assert worst(whole, apart) < 1e-13


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps"):
        sample(mixture(zero_terminal()), classes(1, (1, 1, 1), (1, 1, 1)), normal(1, 4), 0, 1.0)


@pytest.mark.parametrize(("options", "word"), [({"steps": 0}, "steps"), ({"count": 0}, "count"), ({"prompts": ()}, "prompt"),
                                               ({"prompts": ("a", " ")}, "prompt")])  # fmt: skip
def test_sampling_options_that_mean_nothing_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        Sampling(**({"prompts": ("a mug",)} | options))


def test_prediction_of_the_last_step_is_the_sample():
    said = Prediction(normal(2, 3), normal(2, 3, seed=1))

    class Always:
        schedule = Cosine()

        def __call__(self, xt, t, *conditions):
            return [said for _ in conditions]

    assert torch.equal(sample(Always(), classes(2, (1,), (1,)), normal(2, 3), 7, 1.0), said.x0)
