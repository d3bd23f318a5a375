"""RewardVSD and RewardBridge: the methods that they weight, their weights, resuming."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limbeck.diffusion.prediction import Prediction
from limbeck.distillation.batching import draw_candidates
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.rewards.base import Reward
from limbeck.methods.base import Method, Stateless
from limbeck.methods.bridge import Bridge
from limbeck.methods.reward_bridge import RewardBridge
from limbeck.methods.reward_sds import RewardSDS
from limbeck.methods.reward_vsd import RewardVSD
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

EXACT = ExactCritic()
PAIRS = [
    (RewardVSD(3.0, critic=EXACT, num_noises=1, weighting_scheme="best"), VSD(3.0, critic=EXACT)),
    *(
        (RewardBridge(3.0, start, num_noises=1, weighting_scheme="best"), Bridge(3.0, start))
        for start in (0.0, 1.0)
    ),
]


class FirstValue(Reward):
    """The first value of x0."""

    def build(self, prior, setup):
        return lambda x0, conditions, particle: x0.flatten(1)[:, 0]


class TotalValue(Reward):
    """The sum of the values of x0."""

    def build(self, prior, setup):
        return lambda x0, conditions, particle: x0.flatten(1).sum(1)


def run_of(method: Method, steps: int = 3) -> Run:
    prompts = ("red", "blue")
    experiment = Experiment(prompts, particles=2, steps=steps, method=method)
    return Run(experiment, colored_shapes(8))


@pytest.mark.parametrize(("method", "base"), PAIRS, ids=["vsd", "bridge-0", "bridge-1"])
def test_identity_45_one_noise_is_the_method_that_is_weighted(method, base) -> None:
    run, expected = run_of(method), run_of(base)
    for _ in range(3):
        assert torch.equal(run.advance().gradient, expected.advance().gradient)


def directions(run: Run, base: Method, state) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The direction of the method, those of its candidates one by one, and their rewards."""
    method, prior = run.experiment.method, run.prior
    inputs = run.advance().inputs
    with torch.no_grad():
        whole = method(prior, inputs, run.state)
        candidates = draw_candidates(inputs, method.num_noises)
        single, rewards = [], []
        for i in range(method.num_noises):
            rows = torch.arange(i * len(inputs.x0), (i + 1) * len(inputs.x0))
            one = candidates.select(rows)
            single.append(base(prior, one, state))
            null, pos = prior(one.xt, one.t, one.conditions.null, one.conditions.pos)
            x0_hat = null.lerp(pos, method.reward_guidance).x0
            rewards.append(x0_hat.flatten(1)[:, 0])
    return whole, torch.stack(single), torch.stack(rewards)


@pytest.mark.parametrize(
    ("method", "base"),
    [
        (RewardSDS(3.0, num_noises=4), SDS(3.0)),
        (RewardVSD(3.0, critic=EXACT, num_noises=4), VSD(3.0, critic=EXACT)),
    ],
    ids=["sds", "vsd"],
)
def test_after_the_end_of_rewards_the_step_is_that_of_one_noise(method, base) -> None:
    ended, always = run_of(replace(method, reward_end=0.5), 4), run_of(method, 4)
    for step in range(4):
        calls = ended.prior.call_counter.rows
        inputs, other = ended.advance().inputs, always.advance().inputs
        rows = ended.prior.call_counter.rows - calls
        if step < 2:  # rated as ever
            assert torch.equal(inputs.x0, other.x0) and rows >= 4 * len(inputs.x0)
            continue
        state = ended.state.critic if isinstance(base, VSD) else Stateless()
        before = ended.prior.call_counter.rows
        expected = base(ended.prior, inputs, state)
        assert rows == ended.prior.call_counter.rows - before  # no passes for rewards
        assert torch.equal(ended.experiment.method(ended.prior, inputs, ended.state), expected)
    method = ended.experiment.method
    assert method.step_schedule(1, 4) != method.step_schedule(2, 4)  # such a run is not extended


@pytest.mark.parametrize("kind", ["vsd", "bridge"])
def test_the_direction_is_the_weighted_sum_over_the_noises(kind: str) -> None:
    options = {"num_noises": 4, "weighting_scheme": "bestworst", "reward_model": FirstValue()}
    if kind == "vsd":
        run = run_of(RewardVSD(3.0, critic=EXACT, **options))
        base, state = VSD(3.0, critic=EXACT), run.state.critic
    else:
        run = run_of(RewardBridge(3.0, 1.0, **options))
        base, state = Bridge(3.0, 1.0), run.state.prompts
    whole, single, rewards = directions(run, base, state)
    best, worst = rewards.argmax(0), rewards.argmin(0)
    for row in range(4):
        expected = 0.9 * single[best[row], row] - 0.1 * single[worst[row], row]
        assert (whole[row] - expected).abs().max() < 1e-5 * expected.abs().max()


def test_stage_two_rates_away_from_the_source_text() -> None:
    """The image that is rated is "red disc" away from "red", not "red" away from nothing."""
    options = {"weighting_scheme": "softmax", "source_suffix": "", "target_suffix": " disc"}
    method = RewardBridge(3.0, 0.0, reward_guidance=2.5, reward_model=TotalValue(), **options)
    run = run_of(method)
    # so much noise that the shape of a red thing is open, and directions differ between noises
    t = run.prior.schedule.snap(torch.full((4,), 0.85))
    inputs = replace(run.advance().inputs, t=t, drawn_t=None)
    with torch.no_grad():
        found = method(run.prior, inputs, run.state)
        candidates = draw_candidates(inputs, 4)
        source, target = (
            run.prior.condition(4 * (2 * [f"red{shape}"] + 2 * [f"blue{shape}"]))
            for shape in ("", " disc")
        )
        xt, null = candidates.xt, candidates.conditions.null
        of_source, of_target, of_null = run.prior(xt, candidates.t, source, target, null)
    single = (3.0 * (of_target.eps - of_source.eps)).unflatten(0, (4, 4))

    def mean_away_from(other: Prediction) -> torch.Tensor:
        """Mean by exp(reward), with rewards of x0_hat away from another prediction."""
        rewards = (other.x0 + 2.5 * (of_target.x0 - other.x0)).flatten(1).sum(1)
        w = rewards.unflatten(0, (4, 4)).softmax(0)
        return (w[..., None, None, None] * single).sum(0)

    size = found.abs().max()
    assert (found - mean_away_from(of_source)).abs().max() < 1e-5 * size
    assert (found - mean_away_from(of_null)).abs().max() > 1e-2 * size


def test_reward_bridge_without_stage_two_is_reward_sds() -> None:
    bridge, sds = run_of(RewardBridge(3.0, 1.0)), run_of(RewardSDS(3.0, 4))
    for _ in range(2):
        gradients = bridge.advance().gradient, sds.advance().gradient
        assert (gradients[0] - gradients[1]).abs().max() < 1e-5 * gradients[1].abs().max()


def test_a_run_with_a_critic_goes_on_from_its_tensors() -> None:
    method = RewardVSD(3.0, critic=SmallUNetCritic(8))
    whole, half = run_of(method, 2), run_of(method, 2)
    whole.advance()
    half.load({name: tensor.clone() for name, tensor in whole.tensors().items()}, 1)
    assert torch.equal(whole.advance().gradient, half.advance().gradient)
    assert all(torch.equal(v, half.tensors()[k]) for k, v in whole.tensors().items())


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="num_noises must be at least 4"):
        RewardVSD(num_noises=3)
    with pytest.raises(ValueError, match="reward_steps must be at least 1, not 0"):
        RewardBridge(reward_steps=0)
    with pytest.raises(ValueError, match="stage_two_start must be a fraction"):
        RewardBridge(stage_two_start=2.0)
    with pytest.raises(ValueError, match="does not use negative_prompt"):
        Experiment(("red",), method=RewardBridge(), negative_prompt="blue")
