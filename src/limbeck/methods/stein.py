"""SteinDreamer: Wang et al. 2023, Variance Reduction for Text-to-3D Score Distillation via Stein Identity (arXiv 2401.00604)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.control_variates import Baseline, ConstantBaseline, ControlVariateMoments, stein_control_variate
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.methods.base import Method


@dataclass(frozen=True)
class Stein(Method[ControlVariateMoments]):
    """eps_hat_s(x_t, t, y) - eps + mu zeta, zeta = eps phi(x_t) - sigma grad phi(x_t), which has mean zero; mu of least variance.

    guidance: s. phi: the baseline. bins: equal parts of [0, 1] with a mu each. keep: share of what was seen that is kept at each
    step, in [0, 1]; 1 forgets nothing.
    """

    guidance: float = 100.0
    phi: Baseline = field(default_factory=ConstantBaseline)
    num_bins: int = 10
    ema_decay: float = 0.9

    bibtex = """@article{wang2023steindreamer, title={SteinDreamer: Variance Reduction for Text-to-3D Score Distillation via Stein
  Identity}, author={Wang, Peihao and Fan, Zhiwen and Xu, Dejia and Wang, Dilin and Mohan, Sreyas and Iandola, Forrest and Ranjan,
  Rakesh and Li, Yilei and Liu, Qiang and Wang, Zhangyang and Chandra, Vikas}, journal={arXiv:2401.00604}, year={2023}}"""
    passes = "2 (1 at guidance 1)"
    backward = "baseline"

    def __post_init__(self) -> None:
        if self.num_bins < 1 or not 0 <= self.ema_decay <= 1:
            raise ValueError(
                f"bins must be at least 1 and keep lies in [0, 1], not bins {self.num_bins}, keep {self.ema_decay}"
            )

    def init(self, prior: Prior, start: SetupContext) -> ControlVariateMoments:
        return ControlVariateMoments(start.particles, self.num_bins, start.x0.device)

    def __call__(
        self, prior: Prior, sample: StepInputs, state: ControlVariateMoments
    ) -> Float[Tensor, "b ..."]:
        d = (
            guided_prediction(prior, sample.xt, sample.t, sample.conditions, self.guidance).eps
            - sample.eps
        )
        zeta = stein_control_variate(
            self.phi, sample.xt, sample.eps, sample.t, sample.schedule.sigma(sample.t)
        )
        return d + expand(state.mu(sample.particle, sample.t, d, zeta), d) * zeta

    def fit(
        self, prior: Prior, sample: StepInputs, state: ControlVariateMoments
    ) -> dict[str, Tensor]:
        state.commit(self.ema_decay)
        return {}
