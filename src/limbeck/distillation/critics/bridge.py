"""A critic of a bridge: it learns the drift at points between two images (TraCe)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import CriticConfig
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.critics.trained import TrainedCritic
from limbeck.distillation.critics.wrapped import WrappedCritic
from limbeck.distillation.inputs import SetupContext, StepInputs


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

    def predict_drift(
        self,
        inputs: StepInputs,
        x_tau: Float[Tensor, "b ..."],
        b: Float[Tensor, "b ..."],
        tau: float,
    ) -> Float[Tensor, "b ..."]:
        """Return phi(x_tau, tau, y), and keep the points for ``fit``.

        Args:
            inputs: the current step.
            x_tau: points on the bridge.
            b: what phi is to predict there.
            tau: time on the bridge, at which the network is called.
        """
        self.bridge = on_bridge(inputs, x_tau, b, tau)
        return self.prior()(x_tau, self.bridge.t, inputs.with_pose(inputs.conditions.pos))[0].eps

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        return {} if self.bridge is None else self._trained.fit_as_drawn(self.bridge)


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
    return replace(inputs, x0=x0, t=t, eps=b, drawn_t=drawn, exact_t=None)


def build_bridge_critic(config: CriticConfig, prior: Prior, setup: SetupContext) -> BridgeCritic:
    """Build a critic of a bridge; on exact priors ``auto`` is a network, which can be trained.

    Args:
        config: what it is and how it is trained.
        prior: the frozen prior of the run.
        setup: particles, prompts and seed of the run.

    Raises:
        ValueError: if its weights are not trained, or the samples of a step do not last.
    """
    if setup.fresh_samples:  # whose critic is also trained between the steps
        raise ValueError(
            "the critic of TraCe is trained on the bridges of its own steps, but a generator "
            "trains it on new samples too: use another method, such as --method dmd2"
        )
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
