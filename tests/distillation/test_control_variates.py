"""Control variates: the noise itself, and a learned baseline of SteinDreamer."""

from dataclasses import replace

import pytest
import torch
from mixture_inputs import SD
from tiny_pipeline import class_conditions, f64, make_inputs, max_difference, normal

from limbeck.distillation.control_variates import (
    Baseline,
    ConstantBaseline,
    ControlVariate,
    LearnedBaseline,
)
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.noise import (
    AntitheticNoise,
    FixedPerParticleNoise,
    InvertedNoise,
    PredictedNoise,
)
from limbeck.distillation.state import Stateless
from limbeck.methods.sds import SDS
from limbeck.methods.sjc import SJC
from limbeck.methods.stein import Stein, SteinState
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

#: variances of SDS and of SJC without variance reduction, by t, on Stable Diffusion's schedule
VARIANCES = {0.05: (0.905, 0.002), 0.9: (0.000, 0.972)}


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("c", [1.0, 0.3])
def test_identity_03_the_best_multiple_of_the_noise_to_subtract(t, c):
    """eps_hat - k eps has standard deviation |sigma^2 / (alpha^2 C + sigma^2) - k| over eps.

    SDS is k = 1, SJC without variance reduction k = 0.
    """
    prior = GaussianMixture(f64([[0.3]]), f64([c**0.5]))
    n = 64
    eps = normal(n, 1)
    eps = (eps - eps.mean()) / eps.std(correction=0)  # exact moments, so the law is exact
    s = make_inputs(SD, f64([[1.2]]).expand(n, 1), t, eps, class_conditions(n, (1.0,), (1.0,)))
    alpha, sigma = float(SD.alpha(s.t)[0]), float(SD.sigma(s.t)[0])
    best = sigma**2 / (alpha**2 * c + sigma**2)
    sjc, sds = SJC(1.0, var_red=False)(prior, s, Stateless()), SDS(1.0)(prior, s, Stateless())
    for k in (0.0, 0.5, best, 1.0):
        assert abs(float((sjc - k * s.eps).var(correction=0)) - (best - k) ** 2) < 1e-12
    assert abs(float(sds.var(correction=0)) - (1 - best) ** 2) < 1e-12
    assert (float(sds.var()) < float(sjc.var())) == (sigma**2 > alpha**2 * c)
    if c == 1.0 and t in VARIANCES:
        variances = torch.stack([sds.var(correction=0), sjc.var(correction=0)])
        assert max_difference(variances, f64(list(VARIANCES[t]))) < 1e-3


TWO_MODES = GaussianMixture(f64([[-1.0], [1.0]]), f64([0.15, 0.15]))


def inputs_at(x: float, rows: int, seed: int):
    """Rows of one particle, each with its own noise, at t = .3."""
    x0, eps = f64([[x]]).expand(rows, 1), normal(rows, 1, seed=seed)
    inputs = make_inputs(SD, x0, 0.3, eps, class_conditions(rows, (1.0, 1.0), (1.0, 1.0)))
    return replace(inputs, particle=torch.zeros(rows, dtype=torch.long))


def trained(phi: Baseline, steps: int) -> tuple[Stein, SteinState]:
    method = Stein(1.0, phi, num_bins=1)
    state = method.init(TWO_MODES, SetupContext(1, 1, 0, f64([[0.2]])))
    for step in range(steps):
        inputs = inputs_at(0.2, 64, seed=step)
        method(TWO_MODES, inputs, state)
        method.fit(TWO_MODES, inputs, state)
    return method, state


def test_identity_46_a_learned_baseline_lowers_the_second_moment():
    moments = {}
    for phi in (ConstantBaseline(), LearnedBaseline(lr=1e-2)):
        method, state = trained(phi, 150)
        inputs = inputs_at(0.2, 4000, seed=1000)
        direction = method(TWO_MODES, inputs, state)
        sds = SDS(1.0)(TWO_MODES, inputs, Stateless())
        moments[phi] = direction.square().mean()
        # the mean over the noise stays that of SDS
        difference = direction - sds
        assert difference.mean().abs() < 4 * difference.std() / len(difference) ** 0.5
    constant, learned = moments.values()
    assert learned < 0.5 * constant


def test_identity_46_a_learned_baseline_has_mean_zero_with_any_weights():
    phi = LearnedBaseline().build(SetupContext(1, 1, 0, f64([[0.2]])))
    inputs = inputs_at(0.2, 40_000, seed=3)
    variate = ControlVariate(inputs.xt, inputs.eps, inputs.t, SD.sigma(inputs.t))
    assert torch.equal(variate(phi), inputs.eps)  # phi is 1 at first
    phi.load({k: normal(*v.shape, seed=5).to(v) for k, v in phi.tensors().items()})
    zeta = variate(phi)
    assert max_difference(zeta, inputs.eps) > 0.1
    assert zeta.mean().abs() < 4 * zeta.std() / len(zeta) ** 0.5


@pytest.mark.parametrize(
    "noise",
    [FixedPerParticleNoise(), InvertedNoise(), PredictedNoise(), AntitheticNoise("steps")],
    ids=["fixed", "inverted", "predicted", "antithetic-steps"],
)
def test_stein_refuses_noise_over_which_its_control_variate_has_a_mean(noise):
    with pytest.raises(ValueError, match="needs fresh noise in every step"):
        Experiment(("a",), method=Stein(), noise=noise)


def test_stein_takes_antithetic_rows():
    Experiment(("a",), method=Stein(), noise=AntitheticNoise("rows"))


def test_a_run_with_a_learned_baseline_goes_on_from_its_tensors():
    method = Stein(5.0, LearnedBaseline(width=4, lr=1e-2))
    experiment = Experiment(("red disc",), particles=2, steps=4, method=method)
    whole, half = (Run(experiment, colored_shapes(8)) for _ in range(2))
    for _ in range(2):
        whole.advance()
    half.load({name: tensor.clone() for name, tensor in whole.tensors().items()}, 2)
    for _ in range(2):
        metrics = whole.advance().metrics
        assert metrics == half.advance().metrics and metrics["baseline"] > 0
    assert all(torch.equal(tensor, half.tensors()[k]) for k, tensor in whole.tensors().items())
