"""TraCe: its bridge, what its direction is in closed form, and how its critic is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_pipeline import class_conditions, f64, make_inputs, max_difference, normal, row_rng
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import PriorWrapper
from limbeck.diffusion.schedule import (
    CosineSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.bridge import BridgeCritic
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.null_text import NullTextCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.critics.trained import TrainedCritic
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.schrodinger_bridge import SchrodingerBridge
from limbeck.methods.sds import SDS
from limbeck.methods.trace import TraCe
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.representations.generator import Generator
from limbeck.training.experiment import Experiment
from limbeck.training.network_calls import count_network_calls
from limbeck.training.trainer import Run

SD = stable_diffusion_schedule()
SCHEDULES = [SD, CosineSchedule(), RectifiedFlowSchedule()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
TAUS = (0.02, 0.3, 0.5, 0.9)
MEAN, STD = 0.4, 0.7  #: of the Gaussian prior


class AffineDrift(PriorWrapper):
    """phi(x_tau) = intercept + slope x_tau, and what it was asked."""

    def __init__(self, prior, intercept: float, slope: float):
        super().__init__(prior)
        self.intercept, self.slope = intercept, slope
        self.asked: tuple[Tensor, Tensor] | None = None

    def __call__(self, xt, t, *conditions):
        self.asked = xt, t
        return [Prediction(xt, self.intercept + self.slope * xt) for _ in conditions]


class AffineCritic(TrainedCritic):
    """A critic in closed form, which is not trained."""

    def __init__(self, drift: AffineDrift):
        self.drift = drift

    def prior(self):
        return self.drift

    def tensors(self):
        return {}

    def load(self, tensors) -> None:
        return None

    def save(self, folder) -> None:
        return None


def gaussian(schedule=SD) -> GaussianMixture:
    return GaussianMixture(f64([[MEAN]]), f64([STD]), schedule=schedule)


def inputs_of(prior, x: Tensor, t: float) -> StepInputs:
    conditions = class_conditions(len(x), (1.0,), (1.0,))
    inputs = make_inputs(prior.schedule, x, t, normal(*x.shape, seed=9), conditions)
    return replace(inputs, rng=row_rng(len(x)))


def method_at(tau: float) -> TraCe:
    return TraCe(1.0, tau_min=tau, tau_max=tau)


def no_critic(prior) -> BridgeCritic:
    return BridgeCritic(AffineCritic(AffineDrift(prior, 0.0, 0.0)))


def test_the_bridge_has_the_variances_of_i2sb() -> None:
    """I2SB sums 1000 betas, which are mirrored at the half."""
    root = np.linspace(1e-4**0.5, 3e-4**0.5, 1000)
    betas = np.concatenate([root[:500] ** 2, np.flip(root[:500] ** 2)])
    for tau in TAUS:
        bridge, count = SchrodingerBridge.at(tau), round(1000 * tau)
        assert bridge.std_fwd == pytest.approx(betas[:count].sum() ** 0.5, rel=1e-3)
        assert bridge.std_bwd == pytest.approx(betas[count:].sum() ** 0.5, rel=1e-3)


@pytest.mark.parametrize("tau", TAUS)
def test_points_on_the_bridge_have_its_mean_and_variance(tau: float) -> None:
    """The product of N(x0, std_fwd^2) and N(x1, std_bwd^2)."""
    bridge = SchrodingerBridge.at(tau)
    precision = bridge.std_fwd**-2 + bridge.std_bwd**-2
    x0, x1, n = f64([0.3]), f64([-1.1]), f64([0.8])
    mean = (x0 / bridge.std_fwd**2 + x1 / bridge.std_bwd**2) / precision
    assert max_difference(bridge.sample(x0, x1, n), mean + n / precision**0.5) < 1e-12


def test_the_bridge_starts_at_x0_and_ends_at_x1() -> None:
    x0, x1, n = f64([0.3]), f64([-1.1]), f64([0.8])
    assert max_difference(SchrodingerBridge.at(0.0).sample(x0, x1, n), x0) < 1e-12
    assert max_difference(SchrodingerBridge.at(1.0).sample(x0, x1, n), x1) < 1e-7


@every_schedule
@pytest.mark.parametrize("tau", TAUS)
def test_identity_49_without_a_critic_the_mean_is_sds(schedule, tau: float) -> None:
    prior, t = gaussian(schedule), 0.6
    inputs = inputs_of(prior, normal(5, 1, seed=2), t)
    direction = method_at(tau)(prior, inputs, no_critic(prior))
    bridge = SchrodingerBridge.at(tau)
    x0_hat = guided_prediction(prior, inputs.xt, inputs.t, inputs.conditions, 1.0).x0
    scale = bridge.std_fwd / (bridge.std_fwd**2 + bridge.std_bwd**2)
    n = inputs.rng.normal("bridge", 1).double()
    expected = scale * (inputs.x0 - x0_hat) + bridge.std / bridge.std_fwd * n
    assert max_difference(direction, expected) < 1e-9
    weight = (schedule.sigma(inputs.t) / schedule.alpha(inputs.t))[:, None]
    sds = weight * SDS(1.0)(prior, inputs, None)
    assert max_difference(inputs.x0 - x0_hat, sds) < 1e-9


@pytest.mark.parametrize("tau", TAUS[:3])
def test_identity_49_with_the_exact_critic_the_mean_is_zero(tau: float) -> None:
    """All is linear: x0_hat, x_tau and b of one x are jointly Gaussian over both noises."""
    prior, count = gaussian(), 40_000
    x = f64([[1.3]])
    inputs = inputs_of(prior, x.expand(count, 1), 0.6)
    alpha, sigma = float(SD.alpha(inputs.t[:1])), float(SD.sigma(inputs.t[:1]))
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    mean_x0, std_x0 = MEAN + gain * alpha * (float(x) - MEAN), gain * sigma
    bridge = SchrodingerBridge.at(tau)
    mean = (1 - bridge.m1) * mean_x0 + bridge.m1 * float(x)
    variance = ((1 - bridge.m1) * std_x0) ** 2 + bridge.std**2
    slope = (variance - (1 - bridge.m1) * std_x0**2) / bridge.std_fwd / variance
    drift = AffineDrift(prior, (mean - mean_x0) / bridge.std_fwd - slope * mean, slope)
    direction = method_at(tau)(prior, inputs, BridgeCritic(AffineCritic(drift)))
    assert drift.asked is not None
    x_tau, t = drift.asked
    assert max_difference(t, SD.snap(f64([tau] * count))) == 0
    for values in (direction, direction * (x_tau - mean)):
        assert float(values.mean().abs()) < 4 * float(values.std()) / count**0.5
    # without the critic both are far from 0
    without = direction + drift.intercept + slope * x_tau
    assert float(without.mean().abs()) > 10 * float(without.std()) / count**0.5


def step_inputs(prior) -> StepInputs:
    """The inputs of a step of two particles."""
    return Run(Experiment(("a red mug",), particles=2), prior).advance().inputs


def test_the_critic_is_trained_towards_b_at_the_x_tau_of_the_step(prior) -> None:
    """The loss of a critic that predicts eps is the mean square of the direction."""
    inputs = step_inputs(prior)
    method = TraCe(3.0, critic=LoRACritic(2))
    state = method.init(prior, SetupContext(2, 1, 0, inputs.x0.detach()))
    with torch.no_grad():
        direction = method(prior, inputs, state)
    loss = float(method.fit(prior, inputs, state)["critic"])
    assert loss == pytest.approx(float(direction.square().mean()), rel=1e-4)


def test_the_direction_shrinks_as_the_critic_learns(prior) -> None:
    inputs = step_inputs(prior)
    method = TraCe(3.0, critic=SmallUNetCritic(8, CriticTraining(lr=0.01, steps=40)))
    state = method.init(prior, SetupContext(2, 1, 0, inputs.x0.detach()))
    sizes = []
    for _ in range(2):
        with torch.no_grad():
            sizes.append(float(method(prior, inputs, state).square().mean()))
        method.fit(prior, inputs, state)
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("critic", [LoRACritic(2), SmallUNetCritic(8)], ids=["lora", "unet"])
def test_a_resumed_run_goes_on_bit_by_bit(critic, prior) -> None:
    def run() -> Run:
        method = TraCe(3.0, critic=critic)
        return Run(Experiment(("a red mug",), method=method, particles=2, steps=3), prior)

    whole, half = run(), run()
    whole.advance()
    half.load({name: tensor.clone() for name, tensor in whole.tensors().items()}, 1)
    for _ in range(2):
        assert torch.equal(whole.advance().gradient, half.advance().gradient)
    assert all(torch.equal(v, half.tensors()[k]) for k, v in whole.tensors().items())


@pytest.mark.parametrize(("guidance", "rows"), [(20.0, 4), (1.0, 3)])
def test_passes(guidance: float, rows: int, prior) -> None:
    """Of the shared network: prior and critic in a call each, and one call that trains."""
    method = TraCe(guidance, critic=LoRACritic(2))
    count = count_network_calls(method, prior, "a red mug", "a blue chair")
    assert (count.calls, count.rows, count.grad_rows) == ((3, 3), (rows - 1, rows - 1), (1, 1))


def test_tau_falls_from_the_first_step_to_the_last() -> None:
    method = TraCe()
    taus = [method.step_schedule(step, 481) for step in range(481)]
    assert taus == pytest.approx([0.5 - 0.001 * step for step in range(481)])


@pytest.mark.parametrize("prompts", [("red disc",), ("red disc", "blue ring")])
def test_an_exact_prior_gets_a_trained_critic(prompts) -> None:
    prior = colored_shapes(16)
    run = Run(Experiment(prompts, method=TraCe(), particles=2, steps=2), prior)
    losses = [run.advance().metrics["critic"] for _ in range(2)]
    assert all(bool(loss > 0) for loss in losses)


@pytest.mark.parametrize("critic", [ExactCritic()])
def test_critics_without_weights_are_refused(critic, prior) -> None:
    setup = SetupContext(2, 1, 0, normal(2, 4, 8, 8, dtype=torch.float32))
    with pytest.raises(ValueError, match="weights of the critic exact are not trained: use small"):
        TraCe(critic=critic).init(prior, setup)
    assert isinstance(TraCe(critic=NullTextCritic()).init(prior, setup), BridgeCritic)


def test_a_generator_and_sampling_of_the_critic_are_refused(prior, tmp_path) -> None:
    experiment = Experiment(("a red mug",), method=TraCe(), representation=Generator())
    with pytest.raises(ValueError, match="the bridges of its own steps, but a generator"):
        Run(experiment, prior)
    run = Run(Experiment(("a red mug",), method=TraCe()), prior)
    with pytest.raises(ValueError, match="predicts the drift of a bridge, which denoises nothing"):
        run.state.standalone()
    run.experiment.method.save_critic(prior, run.state, tmp_path / "critic")
    assert not (tmp_path / "critic").exists()  # and nothing offers to sample from it


@pytest.mark.parametrize("times", [(0.0, 0.5), (0.5, 0.2), (0.02, 1.0)])
def test_options_are_checked(times) -> None:
    with pytest.raises(ValueError, match="times must satisfy 0 < tau_min <= tau_max < 1, not"):
        TraCe(tau_min=times[0], tau_max=times[1])
