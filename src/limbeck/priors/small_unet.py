"""A small U-Net with random weights, as a network to train beside a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.camera_input import POSE_DIM
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.camera_conditioning import stack_poses
from limbeck.priors.trainable_network import TrainableNetwork


class SmallUNet(TrainableNetwork):
    """A small U-Net, conditioned as the prior is, whose passes are not counted among the prior's.

    It predicts v, or flow on straight paths: both are bounded at both ends of the schedule.

    Args:
        prior: the prior, whose x0 is ``[C, H, W]``; the network takes images of any size.
        width: channels at full resolution, a multiple of 8.
        seed: seed of the initial weights.
        camera: read the camera of each row; its prompt then has no view prompt appended.

    Raises:
        ValueError: if x0 has another shape.
    """

    def __init__(self, prior: Prior, width: int, seed: int, camera: bool = False):
        from diffusers import UNet2DConditionModel

        if len(prior.shape) != 3:
            raise ValueError(
                f"a small U-Net needs a model of images, whose x0 is [C, H, W], not "
                f"{list(prior.shape)}"
            )
        camera_options: dict[str, Any] = {}
        if camera:
            # diffusers treats a pose as a class: Linear-SiLU-Linear, added to the time embedding
            camera_options = {
                "class_embed_type": "projection",
                "projection_class_embeddings_input_dim": POSE_DIM,
            }
        with torch.random.fork_rng(devices=[]):  # diffusers draws weights from the global generator
            torch.manual_seed(int(seed))
            network = UNet2DConditionModel(
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
            )
        super().__init__(prior, network.to(prior.device))
        is_flow = isinstance(prior.schedule, RectifiedFlowSchedule)
        self.prediction_type: PredictionType = "flow" if is_flow else "v"
        self._camera = camera

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``."""
        n, b = len(conditions), len(xt)
        self.call_counter.add(n * b)
        pose = None
        if self._camera:
            conditions = tuple(condition.without_view for condition in conditions)
            pose = stack_poses(conditions, b)
            if pose is None:
                pose = xt.new_zeros(n * b, POSE_DIM, dtype=torch.float32)
        masks = [condition.mask for condition in conditions if condition.mask is not None]
        outputs = self.module(
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

    def save(self, folder: Path) -> None:
        """Write a model of diffusers to ``unet``."""
        module: Any = self.module
        module.save_pretrained(folder / "unet")


def _text_features(condition: Condition) -> Float[Tensor, "b l d"]:
    """Token features as they are; log-weights of a mixture's components as one token of weights."""
    data = condition.data
    return data.exp().unsqueeze(1) if data.ndim == 2 else data
