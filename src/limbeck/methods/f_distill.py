"""f-distill, one-step distillation by f-divergences (Xu et al. 2025, arXiv 2502.15681)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.critics.base import Critic
from limbeck.distillation.discriminators.base import (
    DiscriminatedCritic,
    DiscriminatorConfig,
    judge,
)
from limbeck.distillation.discriminators.feature import FeatureDiscriminator
from limbeck.distillation.discriminators.none import NoDiscriminator
from limbeck.distillation.inputs import StepInputs
from limbeck.methods.dmd2 import DMD2

Divergence = Literal[
    "reverse-kl", "forward-kl", "js", "softened-reverse-kl", "neyman", "hellinger", "jeffreys"
]
#: h(r) = r^2 f''(r) of D_f(p | q) = E_q[f(r)], r = p / q, up to a constant factor
_WEIGHTS: Mapping[Divergence, Callable[[Tensor], Tensor]] = {
    "reverse-kl": torch.ones_like,
    "forward-kl": lambda r: r,
    "js": lambda r: r / (1 + r),
    "softened-reverse-kl": lambda r: 1 / (1 + r),
    "neyman": lambda r: 1 / r,
    "hellinger": lambda r: r**0.5,
    "jeffreys": lambda r: 1 + r,
}
_RATIO_RANGE = (0.1, 20.0)  #: to which r is clamped, as in the authors' code
_TIME_BINS = 10  #: equal bins of t in each of which r is divided by its mean


@dataclass(frozen=True)
class FDistill(DMD2):
    """f-divergence distillation: h(r) (x0_fake - x0_real) / mean |x0 - x0_real|, r = p_t / q_t.

    r is the density ratio of prior and samples at x_t, exp of the discriminator's logit. With the
    reverse KL divergence h = 1, and the direction is that of DMD2. The GAN loss is added as there.

    Attributes:
        divergence: the f-divergence, which determines h.
        normalize: divide r by its mean over the rows in the same tenth of [0, 1], and then h by its
            mean over the rows.
        discriminator: what the discriminator is and how it is trained.
    """

    divergence: Divergence = "js"
    normalize: bool = True
    discriminator: DiscriminatorConfig = field(default_factory=FeatureDiscriminator)

    bibtex = """@inproceedings{xu2025onestep,
  title={One-Step Diffusion Models with f-Divergence Distribution Matching},
  author={Xu, Yilun and Nie, Weili and Vahdat, Arash},
  booktitle={ICCV},
  year={2025}
}"""
    passes = (
        "2 of the prior and 1 with backward, 1 + 1 with backward of the critic; 2 + 2K of the "
        "prior for the discriminator, K steps to its samples"
    )
    backward = "the network of the prior"

    def __post_init__(self) -> None:
        if self.divergence not in _WEIGHTS:
            accepted = ", ".join(_WEIGHTS)
            raise ValueError(f"divergence must be one of {accepted}, not {self.divergence!r}")
        if self.divergence != "reverse-kl" and isinstance(self.discriminator, NoDiscriminator):
            raise ValueError(
                f"divergence {self.divergence} needs the density ratio, which a discriminator "
                "gives: use --method.discriminator feature"
            )

    def h(self, logit: Float[Tensor, "b"], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The weight of each row.

        Args:
            logit: logit of the discriminator.
            t: time of each row.
        """
        r = logit.exp().clamp(*_RATIO_RANGE)
        if not self.normalize:
            return _WEIGHTS[self.divergence](r)
        bins = (t * _TIME_BINS).long().clamp(0, _TIME_BINS - 1)
        same_bin = (bins[:, None] == bins).to(r)
        h = _WEIGHTS[self.divergence](r / ((same_bin @ r) / same_bin.sum(1)))
        return h / h.mean()

    def __call__(self, prior: Prior, inputs: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        direction = self.matching(prior, inputs, state)
        if not isinstance(state, DiscriminatedCritic):
            return direction
        logit, gan_gradient = judge(state.discriminator, inputs)
        weighted = expand(self.h(logit, inputs.t), direction) * direction
        return weighted + self.gan_weight * inputs.x0[0].numel() * gan_gradient
