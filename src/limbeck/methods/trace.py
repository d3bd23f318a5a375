"""TraCe, score distillation on a Schrodinger bridge: Li et al. 2025 (arXiv 2511.05609)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.critics.bridge import BridgeCritic, build_bridge_critic
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.schrodinger_bridge import SchrodingerBridge
from limbeck.distillation.timesteps.base import training_progress
from limbeck.methods.base import CriticMethod


@dataclass(frozen=True)
class TraCe(CriticMethod):
    """TraCe: b - phi(x_tau, tau, y), b = (x_tau - x0_hat) / std_fwd, on a bridge from x0_hat to x.

    x0_hat is the guided prediction at x_t. phi learns b at the same x_tau. tau falls linearly over
    the run.

    Attributes:
        guidance: guidance scale s of x0_hat.
        tau_min: tau of the last step, in (0, tau_max].
        tau_max: tau of the first step, in [tau_min, 1).
        critic: what phi is and how it is trained; its own distribution of timesteps is not used.
    """

    name = "trace"

    guidance: float = 20.0
    tau_min: float = 0.02
    tau_max: float = 0.5
    critic: CriticConfig = field(default_factory=AutoCritic)

    bibtex = """@inproceedings{li2025walking,
  title={Walking the Schr{\\"o}dinger Bridge: A Direct Trajectory for Text-to-3D Generation},
  author={Li, Ziying and Lu, Xuequan and Zhao, Xinkui and Cheng, Guanjie and Deng, Shuiguang and
    Yin, Jianwei},
  booktitle={NeurIPS},
  year={2025}
}"""
    passes = "3 in two calls (2 at guidance 1) + 1 with backward"

    def __post_init__(self) -> None:
        low, high = self.tau_min, self.tau_max
        if not 0 < low <= high < 1:
            raise ValueError(
                f"times must satisfy 0 < tau_min <= tau_max < 1, not tau_min {low}, tau_max {high}"
            )

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        """Times and weight of the authors' code, which switches in step 700 of 1700."""
        switch = {"t_max": 0.7, "late_t_max": 0.5, "switch_at": 0.41}
        return {"weight": "uniform", "timesteps": {"name": "two-stage", **switch}}

    def init(self, prior: Prior, setup: SetupContext) -> BridgeCritic:
        return build_bridge_critic(self.critic, prior, setup)

    def step_schedule(self, step: int, steps: int) -> float:
        return self.tau_max + (self.tau_min - self.tau_max) * training_progress(step, steps)

    def __call__(self, prior: Prior, inputs: StepInputs, state: Critic) -> Float[Tensor, "b ..."]:
        assert isinstance(state, BridgeCritic)  # made by init
        x, y = inputs.x0.detach(), inputs.conditions
        x0_hat = guided_prediction(prior, inputs.xt, inputs.t, y, self.guidance).x0
        tau = self.step_schedule(inputs.step, inputs.steps)
        bridge = SchrodingerBridge.at(tau)
        n = to_device(inputs.rng.normal("bridge", *x.shape[1:]), x.device).to(x)
        x_tau = bridge.sample(x0_hat, x, n)
        b = bridge.drift(x_tau, x0_hat)
        return b - state.predict_drift(inputs, x_tau, b, tau)
