"""Stable score distillation: Tang et al. 2023, Stable Score Distillation for High-Quality 3D Generation (arXiv 2312.09305)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class StableSD(StatelessMethod):
    """(s - 1) (eps(x_t, t, y) - eps(x_t, t)) + eps(x_t, t, y) - r eps: the mode-disengaging, mode-seeking and variance-reducing
    terms of SDS, with r = <eps(x_t, t, y), eps> / <eps, eps> of each row in the place of 1.

    guidance: s; 1 leaves the last two terms. seeking: greatest time at which the last two terms count, in [0, 1].
    """

    guidance: float = 7.5
    t_seeking: float = 1.0

    bibtex = """@article{tang2023stable, title={Stable Score Distillation for High-Quality 3D Generation}, author={Tang, Boshi and
  Wang, Jianan and Wu, Zhiyong and Zhang, Lei}, journal={arXiv:2312.09305}, year={2023}}"""
    passes = "2 (1 at guidance 1)"

    def __post_init__(self) -> None:
        if not 0 <= self.t_seeking <= 1:
            raise ValueError(f"seeking is a time in [0, 1], not {self.t_seeking}")

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        told, eps = sample.conditions, sample.eps
        pos, *null = prior(
            sample.xt, sample.t, told.pos, *([told.null] if self.guidance != 1 else [])
        )
        r = (pos.eps * eps).flatten(1).sum(1) / eps.square().flatten(1).sum(1)
        low = expand((sample.t <= self.t_seeking).to(sample.t), eps)
        seek = low * (pos.eps - expand(r, eps) * eps)
        return seek + (self.guidance - 1) * (pos.eps - null[0].eps) if null else seek
