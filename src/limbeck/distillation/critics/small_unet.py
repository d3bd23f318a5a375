"""A critic that is a small U-Net trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.critics.base import (
    Critic,
    CriticConfig,
    CriticTraining,
    require_cameras,
)
from limbeck.distillation.critics.trained import (
    CriticTrainer,
    TrainedCritic,
    critic_tensors,
    load_critic_tensors,
)
from limbeck.distillation.inputs import SetupContext
from limbeck.priors.small_unet import SmallUNet


@dataclass(frozen=True)
class SmallUNetCritic(CriticConfig):
    """A small U-Net trained from scratch on the particles, conditioned as the prior is.

    It works with any prior whose x0 is ``[C, H, W]``.

    Attributes:
        width: channels at full resolution, a multiple of 8.
        training: how it is trained.
        camera: condition the critic on the camera of each row, for 3D representations. Its
            prompt then has no view prompt appended.
    """

    name = "small-unet"

    width: int = 32
    training: CriticTraining = field(default_factory=CriticTraining)
    camera: bool = False

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width must be a positive multiple of 8, not {self.width}")
        self.training.check_camera(self.camera)

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        require_cameras(self.camera, setup)
        return _SmallUNetCriticModel(self, prior, setup.seed)


class _SmallUNetCriticModel(TrainedCritic):
    def __init__(self, config: SmallUNetCritic, prior: Prior, seed: int):
        self.camera = config.camera
        self._network = SmallUNet(prior, config.width, seed, config.camera)
        self._trainer = CriticTrainer(
            list(self._network.module.parameters()),
            config.training,
            self._network.prediction_type,
            config.camera,
            default_lr=3e-3,
        )

    def prior(self) -> Prior:
        return self._network

    def tensors(self) -> dict[str, Tensor]:
        return critic_tensors(self._network.module, self._trainer, "net.")

    def load(self, tensors: dict[str, Tensor]) -> None:
        load_critic_tensors(self._network.module, self._trainer, tensors, "net.")

    def save(self, folder: Path) -> None:
        """Write a model of diffusers to ``unet``."""
        self._network.save(folder)
