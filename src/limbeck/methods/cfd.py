"""CFD, consistent flow distillation (Yan et al. 2025, arXiv 2501.05445)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.distillation.noise import FixedPerParticleNoise, IndependentNoise, Noise
from limbeck.distillation.noise.views import TransportedNoise
from limbeck.methods.sds import SDS


@dataclass(frozen=True)
class CFD(SDS):
    """Consistent flow distillation: eps_hat_s(x_t, t, y) - eps*, eps* kept in all steps and views.

    Attributes:
        guidance: guidance scale s. The 7 of the authors' code is s - 1.
        rescale: how far the guided x0_hat is rescaled to the standard deviation that it has under
            the prompt alone, over each group of views, in [0, 1]. 0: not at all.
    """

    guidance: float = 8.0

    bibtex = """@inproceedings{yan2025consistent,
  title={Consistent Flow Distillation for Text-to-3D Generation},
  author={Yan, Runjie and Chen, Yinbo and Wang, Xiaolong},
  booktitle={ICLR},
  year={2025}
}"""

    def noise_of_run(self, noise: Noise, is_3d: bool) -> Noise:
        """Fixed noise in 2D, noise on the surface in 3D, where independent noise would be SDS."""
        if type(noise) is not IndependentNoise:
            return noise
        return TransportedNoise() if is_3d else FixedPerParticleNoise()

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        """Times, weight and optimizer of the authors' code."""
        timesteps = "piecewise-linear" if is_3d else "linear"
        return {"timesteps": timesteps, "weight": "lambda", "optimizer": {"beta1": 0.0}}
