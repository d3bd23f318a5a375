"""SteinDreamer: Wang et al. 2023 (arXiv 2401.00604)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.control_variates import (
    Baseline,
    BaselineModel,
    ConstantBaseline,
    ControlVariate,
    ControlVariateMoments,
    require_fresh_noise,
)
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.noise import Noise
from limbeck.methods.base import Method


class SteinState(ControlVariateMoments):
    """The moments behind mu, and phi with what it has learned.

    Args:
        setup: particles and seed of the run.
        bins: number of equal bins into which [0, 1] is divided.
        phi: the baseline.

    Attributes:
        phi: the baseline.
        last: control variate, direction and mu of the last step, from which phi learns.
    """

    def __init__(self, setup: SetupContext, bins: int, phi: BaselineModel):
        super().__init__(setup.particles, bins, setup.x0.device)
        self.phi = phi
        self.last: tuple[ControlVariate, Tensor, Tensor] | None = None

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {f"phi.{k}": v for k, v in self.phi.tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        learned = {k: v for k, v in tensors.items() if k.startswith("phi.")}
        self.phi.load({k.removeprefix("phi."): v for k, v in learned.items()})


@dataclass(frozen=True)
class Stein(Method[SteinState]):
    """SteinDreamer: eps_hat_s(x_t, t, y) - eps + mu zeta, zeta a control variate of mean 0.

    zeta = eps phi(x_t) - sigma_t grad phi(x_t), and mu is the multiple of least variance.

    Attributes:
        guidance: guidance scale s.
        phi: the baseline function phi.
        num_bins: equal bins of the times [0, 1], each with its own mu; at least 1.
        ema_decay: decay of the running moments behind mu at each step, in [0, 1]. 1: no decay.
    """

    guidance: float = 100.0
    phi: Baseline = field(default_factory=ConstantBaseline)
    num_bins: int = 10
    ema_decay: float = 0.9

    bibtex = """@article{wang2023steindreamer,
  title={SteinDreamer: Variance Reduction for Text-to-3D Score Distillation via Stein Identity},
  author={Wang, Peihao and Fan, Zhiwen and Xu, Dejia and Wang, Dilin and Mohan, Sreyas and
    Iandola, Forrest and Ranjan, Rakesh and Li, Yilei and Liu, Qiang and Wang, Zhangyang and
    Chandra, Vikas},
  journal={arXiv:2401.00604},
  year={2023}
}"""
    passes = "2 (1 at guidance 1)"
    backward = "baseline"

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, not {self.num_bins}")
        if not 0 <= self.ema_decay <= 1:
            raise ValueError(f"ema_decay must be in [0, 1], not {self.ema_decay}")

    def noise_of_run(self, noise: Noise, is_3d: bool) -> Noise:
        return require_fresh_noise(noise)

    def init(self, prior: Prior, setup: SetupContext) -> SteinState:
        return SteinState(setup, self.num_bins, self.phi.build(setup))

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: SteinState
    ) -> Float[Tensor, "b ..."]:
        xt, t, eps = inputs.xt, inputs.t, inputs.eps
        sds = guided_prediction(prior, xt, t, inputs.conditions, self.guidance).eps - eps
        variate = ControlVariate(xt, eps, t, inputs.schedule.sigma(t))
        zeta = variate(state.phi)
        mu = state.mu(inputs.particle, t, sds, zeta)
        state.last = variate, sds, mu
        return sds + expand(mu, sds) * zeta

    def fit(self, prior: Prior, inputs: StepInputs, state: SteinState) -> dict[str, Tensor]:
        state.commit(self.ema_decay)
        loss = None if state.last is None else state.phi.fit(*state.last)
        return {} if loss is None else {"baseline": loss}
