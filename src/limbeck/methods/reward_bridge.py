"""RewardBridge: SDS-Bridge by the reward-weighted sampling of RewardSDS (2503.09601)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.batching import average_candidates, draw_candidates, rate_candidates
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.rewards.auto import AutoReward
from limbeck.distillation.rewards.base import (
    Reward,
    RewardFunction,
    RewardState,
    WeightingScheme,
    candidate_weights,
    check_reward_options,
)
from limbeck.distillation.state import PromptEmbeddings
from limbeck.methods.base import Method
from limbeck.methods.bridge import Bridge


class RatedPrompts(RewardState):
    """State of RewardBridge: its reward function, and the source and target prompts of Bridge."""

    def __init__(self, reward_fn: RewardFunction, prompts: PromptEmbeddings):
        super().__init__(reward_fn)
        self.prompts = prompts


@dataclass(frozen=True)
class RewardBridge(Method[RatedPrompts]):
    """Reward-weighted SDS-Bridge: sum_i w_i of its direction at x_t_i, over several noises.

    The weight w_i follows from the reward of the image that x_t_i is denoised to, in stage two away
    from the source prompt.

    Attributes:
        guidance: guidance scale s of both stages.
        stage_two_start: fraction of the run at which stage two starts. 0: stage two only; 1:
            RewardSDS.
        source_suffix: text added to the prompt to describe the faults that stage one leaves.
        target_suffix: text added to the prompt to describe the target; both as in Bridge.
        num_noises: noises per particle and step.
        weighting_scheme: minmax: .9 shared by the best two noises, -.1 by the worst two; bestworst:
            the same with one each; best: the best alone; softmax: all by exp(reward).
        reward_steps: DDIM steps to the image that is rated, at least 1.
        reward_guidance: guidance scale of these steps.
        reward_model: what rates the image.
    """

    guidance: float = 40.0
    stage_two_start: float = 0.5
    source_suffix: str | None = None
    target_suffix: str | None = None
    num_noises: int = 4
    weighting_scheme: WeightingScheme = "minmax"
    reward_steps: int = 1
    reward_guidance: float = 7.5
    reward_model: Reward = field(default_factory=AutoReward)

    bibtex = """@article{chachy2025rewardsds,
  title={RewardSDS: Aligning Score Distillation via Reward-Weighted Sampling},
  author={Chachy, Itay and Yariv, Guy and Benaim, Sagie},
  journal={arXiv:2503.09601},
  year={2025}
}"""
    passes = "(2 + 2S)N, N noises and S steps to the image"

    def __post_init__(self) -> None:
        check_reward_options(self.weighting_scheme, self.num_noises, self.reward_steps)
        self.bridge()  # checks the options that are its own

    def bridge(self) -> Bridge:
        """The method whose directions are weighted."""
        return Bridge(self.guidance, self.stage_two_start, self.source_suffix, self.target_suffix)

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance, self.reward_guidance)

    def unused_options(self) -> dict[str, str]:
        return self.bridge().unused_options()

    def step_schedule(self, step: int, steps: int) -> float:
        return self.bridge().step_schedule(step, steps)

    def init(self, prior: Prior, setup: SetupContext) -> RatedPrompts:
        reward_fn = self.reward_model.build_checked(prior, setup)
        return RatedPrompts(reward_fn, self.bridge().init(prior, setup))

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: RatedPrompts
    ) -> Float[Tensor, "b ..."]:
        candidates = draw_candidates(inputs, self.num_noises)
        y = candidates.conditions
        if inputs.step >= self.stage_two_start * inputs.steps:
            y = state.prompts.transition(candidates)
        y = replace(y, denoise_steps=self.reward_steps)
        rewards = rate_candidates(prior, candidates, y, self.reward_guidance, state.reward_fn)
        w = candidate_weights(self.weighting_scheme, rewards.unflatten(0, (self.num_noises, -1)))
        return average_candidates(self.bridge()(prior, candidates, state.prompts), w)
