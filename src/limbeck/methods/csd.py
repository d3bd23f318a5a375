"""CSD, classifier score distillation: Yu et al. 2023 (arXiv 2310.19415)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.method import Memoryless, Sample, Stateless
from limbeck.prior import Prior


@dataclass(frozen=True)
class CSD(Memoryless):
    """eps(x_t, t, y) - eps(x_t, t): the score of the implicit classifier alone, SDS / s as s grows."""

    bibtex = """@article{yu2023csd, title={Text-to-3D with Classifier Score Distillation}, author={Yu, Xin and Guo, Yuan-Chen and
  Li, Yangguang and Liang, Ding and Zhang, Song-Hai and Qi, Xiaojuan}, journal={arXiv:2310.19415}, year={2023}}"""
    passes = "2"

    def __call__(self, prior: Prior, sample: Sample, state: Stateless) -> Float[Tensor, "b ..."]:
        null, pos = prior(sample.xt, sample.t, sample.told.null, sample.told.pos)
        return pos.eps - null.eps
