"""RewardSDS: Chachy et al. 2025, Aligning Score Distillation via Reward-Weighted Sampling (arXiv 2503.09601)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import apply_guidance, denoise_multistep, required_conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.rewards.auto import AutoReward
from limbeck.distillation.rewards.base import Reward, RewardState, WeightingScheme, candidate_weights, min_candidates
from limbeck.methods.base import Method


@dataclass(frozen=True)
class RewardSDS(Method[RewardState]):
    """sum_i w_i (eps_hat_s(x_t_i, t, y) - eps_i) over several noises, weighed by the score of the picture behind each x_t_i.

    guidance: s of SDS. noises: per particle and step. scheme: of the weights. minmax shares .9 among the two best and -.1 among the
    two worst; bestworst the same with one each; best is the best alone; softmax weighs all by exp(score). steps: DDIM steps to the
    picture that is scored, 1 costs nothing more. look: guidance of these steps. scorer: what is good.
    """

    guidance: float = 100.0
    num_noises: int = 8
    weighting_scheme: WeightingScheme = "minmax"
    reward_steps: int = 1
    reward_guidance: float = 7.5
    reward_model: Reward = field(default_factory=AutoReward)

    bibtex = """@article{chachy2025rewardsds, title={RewardSDS: Aligning Score Distillation via Reward-Weighted Sampling},
  author={Chachy, Itay and Yariv, Guy and Benaim, Sagie}, journal={arXiv:2503.09601}, year={2025}}"""
    passes = "2NS in S calls, N noises and S steps to the picture"

    def __post_init__(self) -> None:
        if self.num_noises < min_candidates(self.weighting_scheme) or self.reward_steps < 1:
            raise ValueError(
                f"{self.weighting_scheme} needs noises of at least {min_candidates(self.weighting_scheme)} and steps of at least 1: {self}"
            )

    def init(self, prior: Prior, start: SetupContext) -> RewardState:
        return RewardState(self.reward_model.build(prior, start))

    def __call__(
        self, prior: Prior, sample: StepInputs, state: RewardState
    ) -> Float[Tensor, "b ..."]:
        b, shape = len(sample.x0), sample.x0.shape[1:]
        more = to_device(
            torch.randn((self.num_noises - 1) * b, *shape, generator=sample.rng), sample.eps.device
        ).to(sample.eps)
        rows, eps = (
            torch.arange(b, device=sample.x0.device).repeat(self.num_noises),
            torch.cat([sample.eps, more]),
        )
        told, t = sample.conditions[rows], sample.t[rows]
        xt = sample.schedule.add_noise(sample.x0.detach()[rows], eps, t)
        # where the two guidances differ both need null and pos, whatever their values
        answers = prior(
            xt, t, *required_conditions(told, self.guidance if self.guidance == self.reward_guidance else 2.0)
        )
        seen = denoise_multistep(
            prior,
            apply_guidance(told, answers, self.reward_guidance),
            xt,
            t,
            replace(told, denoise_steps=self.reward_steps),
            self.reward_guidance,
        ).x0
        eps_hat = denoise_multistep(
            prior, apply_guidance(told, answers, self.guidance), xt, t, told, self.guidance
        ).eps
        w = candidate_weights(
            self.weighting_scheme,
            state.reward_fn(seen, told, sample.particle.repeat(self.num_noises)).view(self.num_noises, b),
        ).to(eps)
        return torch.einsum("nb,nb...->b...", w, (eps_hat - eps).view(self.num_noises, b, *shape))
