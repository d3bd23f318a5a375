"""RewardSDS: Chachy et al. 2025, Aligning Score Distillation via Reward-Weighted Sampling (arXiv 2503.09601)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.method import Method, Sample, Start
from limbeck.prior import Prior, asked, combined, finished
from limbeck.schedule import sent
from limbeck.scorer import Judge, Scheme, Scorer, fewest, shares
from limbeck.scorers import Auto


@dataclass(frozen=True)
class RewardSDS(Method[Judge]):
    """sum_i w_i (eps_hat_s(x_t_i, t, y) - eps_i) over several noises, weighed by the score of the picture behind each x_t_i.

    guidance: s of SDS. noises: per particle and step. scheme: of the weights. minmax shares .9 among the two best and -.1 among the
    two worst; bestworst the same with one each; best is the best alone; softmax weighs all by exp(score). steps: DDIM steps to the
    picture that is scored, 1 costs nothing more. look: guidance of these steps. scorer: what is good.
    """

    guidance: float = 100.0
    noises: int = 8
    scheme: Scheme = "minmax"
    steps: int = 1
    look: float = 7.5
    scorer: Scorer = field(default_factory=Auto)

    bibtex = """@article{chachy2025rewardsds, title={RewardSDS: Aligning Score Distillation via Reward-Weighted Sampling},
  author={Chachy, Itay and Yariv, Guy and Benaim, Sagie}, journal={arXiv:2503.09601}, year={2025}}"""
    passes = "2NS in S calls, N noises and S steps to the picture"

    def __post_init__(self) -> None:
        if self.noises < fewest(self.scheme) or self.steps < 1:
            raise ValueError(f"{self.scheme} needs noises of at least {fewest(self.scheme)} and steps of at least 1: {self}")

    def init(self, prior: Prior, start: Start) -> Judge:
        return Judge(self.scorer.build(prior, start))

    def __call__(self, prior: Prior, sample: Sample, state: Judge) -> Float[Tensor, "b ..."]:
        b, shape = len(sample.x0), sample.x0.shape[1:]
        more = sent(torch.randn((self.noises - 1) * b, *shape, generator=sample.rng), sample.eps.device).to(sample.eps)
        rows, eps = torch.arange(b, device=sample.x0.device).repeat(self.noises), torch.cat([sample.eps, more])
        told, t = sample.told[rows], sample.t[rows]
        xt = sample.schedule.noised(sample.x0.detach()[rows], eps, t)
        # where the two guidances differ both need null and pos, whatever their values
        answers = prior(xt, t, *asked(told, self.guidance if self.guidance == self.look else 2.0))
        seen = finished(prior, combined(told, answers, self.look), xt, t, replace(told, k=self.steps), self.look).x0
        eps_hat = finished(prior, combined(told, answers, self.guidance), xt, t, told, self.guidance).eps
        w = shares(self.scheme, state.score(seen, told, sample.view.repeat(self.noises)).view(self.noises, b)).to(eps)
        return torch.einsum("nb,nb...->b...", w, (eps_hat - eps).view(self.noises, b, *shape))
