"""RewardSDS: Chachy et al. 2025 (arXiv 2503.09601)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.batching import average_candidates, draw_candidates, predict_eps_and_x0
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.own_results import check_own_rewards
from limbeck.distillation.rewards.auto import AutoReward
from limbeck.distillation.rewards.base import (
    Reward,
    RewardState,
    WeightingScheme,
    candidate_weights,
    check_reward_options,
)
from limbeck.methods.base import Method, Stateless
from limbeck.methods.sds import SDS


@dataclass(frozen=True)
class RewardSDS(Method[RewardState]):
    """Reward-weighted SDS: sum_i w_i (eps_hat_s(x_t_i, t, y) - eps_i) over several noises.

    The weight w_i follows from the reward of the image that x_t_i is denoised to.

    Attributes:
        guidance: guidance scale s of SDS.
        num_noises: noises per particle and step.
        weighting_scheme: minmax: .9 shared by the best two noises, -.1 by the worst two; bestworst:
            the same with one each; best: the best alone; softmax: all by exp(reward).
        reward_steps: DDIM steps to the image that is rated, at least 1. 1 needs no further pass.
        reward_guidance: guidance scale of these steps.
        reward_model: what rates the image.
        reward_end: fraction of the run after which nothing is rated: the step is then that of
            SDS with one noise.
    """

    guidance: float = 100.0
    num_noises: int = 8
    weighting_scheme: WeightingScheme = "minmax"
    reward_steps: int = 1
    reward_guidance: float = 7.5
    reward_model: Reward = field(default_factory=AutoReward)
    reward_end: float = 1.0

    bibtex = """@article{chachy2025rewardsds,
  title={RewardSDS: Aligning Score Distillation via Reward-Weighted Sampling},
  author={Chachy, Itay and Yariv, Guy and Benaim, Sagie},
  journal={arXiv:2503.09601},
  year={2025}
}"""
    passes = "2NS in S calls, N noises and S steps to the image"

    def __post_init__(self) -> None:
        check_reward_options(
            self.weighting_scheme, self.num_noises, self.reward_steps, self.reward_end
        )

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance, self.reward_guidance)

    def step_schedule(self, step: int, steps: int) -> float:
        return float(step >= self.reward_end * steps)

    def init(self, prior: Prior, setup: SetupContext) -> RewardState:
        return RewardState(self.reward_model.build_checked(prior, setup))

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: RewardState
    ) -> Float[Tensor, "b ..."]:
        if self.step_schedule(inputs.step, inputs.steps):
            return SDS(self.guidance)(prior, inputs, Stateless())
        candidates = draw_candidates(inputs, self.num_noises)
        eps_hat, x0_hat = predict_eps_and_x0(
            prior, candidates, self.guidance, self.reward_guidance, self.reward_steps
        )
        sds = eps_hat - candidates.eps
        rewards = state.reward_fn(x0_hat, candidates.conditions, candidates.particle)
        check_own_rewards(state.reward_fn, rewards, len(x0_hat))
        w = candidate_weights(self.weighting_scheme, rewards.unflatten(0, (self.num_noises, -1)))
        return average_candidates(sds, w)
