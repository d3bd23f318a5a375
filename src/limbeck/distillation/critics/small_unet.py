"""A critic that is a small U-Net trained from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.camera_input import POSE_DIM
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.diffusion.schedule import RectifiedFlowSchedule
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
from limbeck.priors.camera_conditioning import stack_poses


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

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        if len(prior.shape) != 3 or prior.shape[-1] % 4 or prior.shape[-2] % 4:
            raise ValueError(
                "a small U-Net needs x0 of [C, H, W] with H and W divisible by 4, "
                f"not {list(prior.shape)}"
            )
        require_cameras(self.camera, setup)
        return _SmallUNetCriticModel(self, prior, setup.seed)


class _SmallUNetPrior(PriorWrapper):
    """The small U-Net as a prior.

    It predicts v, or flow on straight paths: both are bounded at both ends of the schedule.
    """

    def __init__(self, prior: Prior, width: int, camera: bool):
        from diffusers import UNet2DConditionModel

        super().__init__(prior)
        is_flow = isinstance(prior.schedule, RectifiedFlowSchedule)
        self.prediction_type: PredictionType = "flow" if is_flow else "v"
        self._camera = camera
        camera_options: dict[str, Any] = {}
        if camera:
            # diffusers treats a pose as a class: Linear-SiLU-Linear, added to the time embedding
            camera_options = {
                "class_embed_type": "projection",
                "projection_class_embeddings_input_dim": POSE_DIM,
            }
        self.net = UNet2DConditionModel(
            sample_size=prior.shape[-1],
            in_channels=prior.shape[0],
            out_channels=prior.shape[0],
            layers_per_block=1,
            block_out_channels=(width, 2 * width, 2 * width),
            norm_num_groups=8,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            cross_attention_dim=prior.condition([""]).data.shape[-1],
            **camera_options,
        ).to(prior.device)

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        n, b = len(conditions), len(xt)
        self.call_counter.add(n * b)
        pose = None
        if self._camera:
            conditions = tuple(condition.without_view for condition in conditions)
            pose = stack_poses(conditions, b)
            if pose is None:
                pose = xt.new_zeros(n * b, POSE_DIM, dtype=torch.float32)
        masks = [condition.mask for condition in conditions if condition.mask is not None]
        outputs = self.net(
            xt.float().repeat(n, 1, 1, 1),
            (t * 1000).repeat(n),
            torch.cat([_text_features(condition) for condition in conditions]).to(torch.float32),
            pose,
            encoder_attention_mask=torch.cat(masks) if masks else None,
            return_dict=False,
        )[0].chunk(n)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return [
            Prediction.from_output(self.prediction_type, output, xt.float(), alpha, sigma)
            for output in outputs
        ]


def _text_features(condition: Condition) -> Float[Tensor, "b l d"]:
    """Token features as they are; log-weights of a mixture's components as one token of weights."""
    data = condition.data
    return data.exp().unsqueeze(1) if data.ndim == 2 else data


class _SmallUNetCriticModel(TrainedCritic):
    def __init__(self, config: SmallUNetCritic, prior: Prior, seed: int):
        self.camera = config.camera
        with torch.random.fork_rng(devices=[]):  # diffusers draws weights from the global generator
            torch.manual_seed(seed)
            self._prior = _SmallUNetPrior(prior, config.width, config.camera)
        self._trainer = CriticTrainer(
            list(self._prior.net.parameters()),
            config.training,
            self._prior.prediction_type,
            config.camera,
            default_lr=3e-3,
        )

    def prior(self) -> Prior:
        return self._prior

    def tensors(self) -> dict[str, Tensor]:
        return critic_tensors(self._prior.net, self._trainer, "net.")

    def load(self, tensors: dict[str, Tensor]) -> None:
        load_critic_tensors(self._prior.net, self._trainer, tensors, "net.")

    def save(self, folder: Path) -> None:
        """Write a model of diffusers to ``unet``."""
        self._prior.net.save_pretrained(folder / "unet")
