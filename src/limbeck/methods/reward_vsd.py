"""RewardVSD: VSD by the reward-weighted sampling of RewardSDS (Chachy et al. 2025, 2503.09601)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.batching import average_candidates, draw_candidates, rate_candidates
from limbeck.distillation.critics.base import Critic
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.rewards.auto import AutoReward
from limbeck.distillation.rewards.base import (
    Reward,
    WeightingScheme,
    candidate_weights,
    check_reward_options,
)
from limbeck.distillation.rewards.rated_critic import RatedCritic
from limbeck.methods.vsd import VSD


@dataclass(frozen=True)
class RewardVSD(VSD):
    """Reward-weighted VSD: sum_i w_i (eps_pretrain - eps_phi) at x_t_i, over several noises.

    The weight w_i follows from the reward of the image that x_t_i is denoised to. The critic phi is
    trained once per step, as in VSD.

    Attributes:
        num_noises: noises per particle and step.
        weighting_scheme: minmax: .9 shared by the best two noises, -.1 by the worst two; bestworst:
            the same with one each; best: the best alone; softmax: all by exp(reward).
        reward_steps: DDIM steps to the image that is rated, at least 1.
        reward_guidance: guidance scale of these steps.
        reward_model: what rates the image.
        reward_end: fraction of the run after which nothing is rated: the step is then that of
            VSD with one noise.
    """

    name = "reward-vsd"  # VSD is no noun to leave out

    num_noises: int = 4
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
    passes = "(3 + 2S)N + 1 with backward, N noises and S steps to the image"

    def __post_init__(self) -> None:
        check_reward_options(
            self.weighting_scheme, self.num_noises, self.reward_steps, self.reward_end
        )

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance, self.reward_guidance)

    def step_schedule(self, step: int, steps: int) -> float:
        return float(step >= self.reward_end * steps)

    def init(self, prior: Prior, setup: SetupContext) -> Critic:
        return RatedCritic(super().init(prior, setup), self.reward_model, prior, setup)

    def __call__(self, prior: Prior, inputs: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        assert isinstance(state, RatedCritic)  # made by init
        if self.step_schedule(inputs.step, inputs.steps):
            return super().__call__(prior, inputs, state.critic)
        candidates = draw_candidates(inputs, self.num_noises)
        rewards = rate_candidates(
            prior,
            candidates,
            replace(candidates.conditions, denoise_steps=self.reward_steps),
            self.reward_guidance,
            state.reward_fn,
        )
        w = candidate_weights(self.weighting_scheme, rewards.unflatten(0, (self.num_noises, -1)))
        direction = super().__call__(prior, candidates, state.critic)
        state.observe(inputs)  # the rows of the step again, for what looks at the critic after it
        return average_candidates(direction, w)
