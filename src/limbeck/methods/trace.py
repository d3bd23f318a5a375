"""TraCe, score distillation on a Schrodinger bridge: Li et al. 2025 (arXiv 2511.05609)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.critics.trained import TrainedCritic
from limbeck.distillation.critics.wrapped import WrappedCritic
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.timesteps.base import training_progress
from limbeck.methods.base import CriticMethod

_BETA_MIN, _BETA_MAX, _NUM_BETAS = 1e-4, 3e-4, 1000  #: of I2SB, with beta_max .3


@dataclass(frozen=True)
class SchrodingerBridge:
    """The bridge of I2SB from x_0 at tau = 0 to x_1 at tau = 1, at one tau.

    sqrt(beta) is linear from tau = 0 to 1/2 and mirrored after it.

    Attributes:
        std_fwd: (int_0^tau beta)^(1/2), the standard deviation of x_tau given x_0.
        std_bwd: (int_tau^1 beta)^(1/2), that given x_1.

    References:
        Liu et al. 2023, arXiv 2302.05872, eq. 11 (I2SB).
    """

    std_fwd: float
    std_bwd: float

    @staticmethod
    def at(tau: float) -> SchrodingerBridge:
        """Return the bridge at a time.

        Args:
            tau: time, in [0, 1].
        """
        half = _beta_integral(0.5)
        fwd = _beta_integral(tau) if tau <= 0.5 else 2 * half - _beta_integral(1 - tau)
        return SchrodingerBridge(fwd**0.5, max(2 * half - fwd, 0.0) ** 0.5)

    @property
    def m1(self) -> float:
        """Weight of x_1 in the mean of x_tau; that of x_0 is 1 - m1."""
        return self.std_fwd**2 / (self.std_fwd**2 + self.std_bwd**2)

    @property
    def std(self) -> float:
        """Standard deviation of x_tau given both ends."""
        return self.std_bwd * self.m1**0.5

    def sample(
        self, x0: Float[Tensor, "b ..."], x1: Float[Tensor, "b ..."], n: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b ..."]:
        """x_tau = (1 - m1) x_0 + m1 x_1 + std n.

        Args:
            x0: end at tau = 0.
            x1: end at tau = 1.
            n: standard normal noise.
        """
        return x0.lerp(x1, self.m1) + self.std * n

    def drift(
        self, x_tau: Float[Tensor, "b ..."], x0: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b ..."]:
        """b = (x_tau - x_0) / std_fwd, what the network of I2SB learns (its eq. 12).

        Args:
            x_tau: points on the bridge.
            x0: its end at tau = 0.
        """
        return (x_tau - x0) / self.std_fwd


def _beta_integral(tau: float) -> float:
    """Integral of the rising half of beta over [0, tau]."""
    low, high = _BETA_MIN**0.5, _BETA_MAX**0.5
    slope = high - low
    return _NUM_BETAS * ((low + slope * tau) ** 3 - low**3) / (3 * slope)


class BridgeCritic(WrappedCritic):
    """phi, a network that is trained on the bridge instead of on the particles.

    Args:
        critic: its weights and their trainer.

    Attributes:
        bridge: x_tau of the step with b in the place of eps, on which ``fit`` trains.
    """

    def __init__(self, critic: TrainedCritic):
        super().__init__(critic)
        self._trained = critic
        self.bridge: StepInputs | None = None

    def standalone(self) -> Prior:
        """Refused: it predicts the drift of a bridge."""
        raise ValueError(
            "the critic of TraCe predicts the drift of a bridge, which denoises nothing: sample "
            "the critic of another method, such as vsd"
        )

    def save(self, folder: Path) -> None:
        """Write nothing: elsewhere the weights would be taken for a denoiser."""
        return None

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        return {} if self.bridge is None else self._trained.fit_as_drawn(self.bridge)


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
        if setup.fresh_samples:  # whose critic is also trained between the steps
            raise ValueError(
                "TraCe trains its critic on the bridges of its own steps, but a generator trains "
                "it on new samples too: use another method, such as --method dmd2"
            )
        config = self.critic
        if isinstance(config, AutoCritic) and isinstance(config.choose(prior), ExactCritic):
            config = NetworkCritic(config.training)
        critic = config.build(prior, setup)
        if not isinstance(critic, TrainedCritic):
            raise ValueError(
                "TraCe trains its critic on a bridge, and the weights of the critic "
                f"{component_name(type(config))} are not trained: use small-unet, lora, network or "
                "null-text"
            )
        return BridgeCritic(critic)

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
        state.bridge = on_bridge(inputs, x_tau, b, tau)
        phi = state.prior()(x_tau, state.bridge.t, inputs.with_pose(y.pos))[0].eps
        return b - phi


def on_bridge(
    inputs: StepInputs, x_tau: Float[Tensor, "b ..."], b: Float[Tensor, "b ..."], tau: float
) -> StepInputs:
    """Return the step with x_tau as its x_t and b as its eps, for training of the critic.

    Args:
        inputs: the current step.
        x_tau: points on the bridge.
        b: what the critic is to predict there.
        tau: time on the bridge, at which the critic is called.
    """
    drawn = inputs.schedule.snap(torch.full_like(inputs.t_cpu, tau))
    t = to_device(drawn, inputs.t.device)
    alpha, sigma = inputs.schedule.alpha(t), inputs.schedule.sigma(t)
    x0 = Prediction.from_output("eps", b, x_tau, alpha, sigma).x0
    return replace(inputs, x0=x0, t=t, eps=b, drawn_t=drawn)
