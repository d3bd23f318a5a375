"""Stable score distillation: Tang et al. 2023 (arXiv 2312.09305)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_predictions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class StableSD(StatelessMethod):
    """Stable SD: (s - 1) (eps(x_t, t, y) - eps(x_t, t)) + eps(x_t, t, y) - r eps.

    These are the mode-disengaging, mode-seeking and variance-reducing terms of SDS, but with the
    adaptive r = <eps(x_t, t, y), eps> / <eps, eps> of each row instead of 1.

    Attributes:
        guidance: guidance scale s. 1 leaves the last two terms.
        t_seeking: largest time at which the last two terms count, in [0, 1].
        order: sum: the terms are added up to t_seeking, and above it the first stands alone.
            by-time: the first above t_seeking and the last two below it, scaled to the norm that
            the first would have, s (eps(x_t, t, y) - eps(x_t, t)); in PGC-3D's code t_seeking is
            0.1.
    """

    guidance: float = 7.5
    t_seeking: float = 1.0
    order: Literal["sum", "by-time"] = "sum"

    bibtex = """@article{tang2023stable,
  title={Stable Score Distillation for High-Quality 3D Generation},
  author={Tang, Boshi and Wang, Jianan and Wu, Zhiyong and Zhang, Lei},
  journal={arXiv:2312.09305},
  year={2023}
}"""
    passes = "2 (1 at guidance 1 in the order sum)"

    def __post_init__(self) -> None:
        if not 0 <= self.t_seeking <= 1:
            raise ValueError(f"t_seeking must be a time in [0, 1], not {self.t_seeking}")
        if self.order == "by-time" and self.guidance == 0:
            raise ValueError("order by-time has only terms that guidance 0 removes: use another")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (0.0, 1.0) if self.order == "by-time" else (self.guidance,)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        xt, t, eps, y = inputs.xt, inputs.t, inputs.eps, inputs.conditions
        is_by_time = self.order == "by-time"
        null_term = [(y, 0.0)] if is_by_time or self.guidance != 1 else []
        pos, *null = guided_predictions(prior, xt, t, (y, 1.0), *null_term)
        r = (pos.eps * eps).flatten(1).sum(1) / eps.square().flatten(1).sum(1)
        is_seeking = expand((t <= self.t_seeking).to(t), eps)
        seeking = pos.eps - expand(r, eps) * eps
        if is_by_time:
            h = self.guidance * (pos.eps - null[0].eps)
            norms = [v.flatten(1).norm(dim=1) for v in (h, seeking)]
            factor = torch.where(norms[1] > 0, norms[0] / norms[1], 0.0)
            return torch.lerp(h, expand(factor, eps) * seeking, is_seeking)
        seeking = is_seeking * seeking
        if not null:
            return seeking
        disengaging = (self.guidance - 1) * (pos.eps - null[0].eps)
        return seeking + disengaging
