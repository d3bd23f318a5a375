"""A critic that is a small U-Net of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTrainer, CriticTraining, load_trained, require_cameras
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.priors.camera_conditioning import POSE_DIM, stack_poses
from limbeck.system.optimizer_state import optimizer_tensors


@dataclass(frozen=True)
class SmallUNetCritic(CriticConfig):
    """A small U-Net trained from scratch on the particles alone. It knows the prior's condition; it works on any picture prior.

    width: channels at full resolution, a multiple of 8. learning: how it is trained. camera: tell it the camera of each row, for
    what has sides; it then hears the prompt without the words of a side.
    """

    name = "small-unet"

    width: int = 32
    training: CriticTraining = field(default_factory=CriticTraining)
    camera: bool = False

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width must be a positive multiple of 8, not {self.width}")

    def build(self, prior: Prior, start: SetupContext) -> Critic:
        if len(prior.shape) != 3 or prior.shape[-1] % 4 or prior.shape[-2] % 4:
            raise ValueError(
                f"a small U-Net needs x0 of [C, H, W] with H and W divisible by 4, not {list(prior.shape)}"
            )
        require_cameras(self.camera, start)
        return _SmallUNetCriticModel(self, prior, start.seed)


class _SmallUNetPrior(PriorWrapper):
    """The small network as a prior, in v parametrisation, or flow where paths are straight: tame at both ends of the schedule."""

    def __init__(self, prior: Prior, width: int, camera: bool):
        from diffusers import UNet2DConditionModel

        super().__init__(prior)
        self.prediction_type: PredictionType = "flow" if isinstance(prior.schedule, RectifiedFlowSchedule) else "v"
        features = prior.condition([""]).data.shape[-1]
        # a camera is a "class" to diffusers: Linear-SiLU-Linear of its pose, added to the embedding of time
        self._camera, seen = (
            camera,
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": POSE_DIM},
        )
        self.net = UNet2DConditionModel(
            sample_size=prior.shape[-1], in_channels=prior.shape[0], out_channels=prior.shape[0], layers_per_block=1,
            block_out_channels=(width, 2 * width, 2 * width), norm_num_groups=8, attention_head_dim=4,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"), cross_attention_dim=features,
            **(seen if camera else {}),
        ).to(prior.device)  # fmt: skip

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        n, b = len(conditions), len(xt)
        self.call_counter.add(n * b)
        if self._camera:
            conditions = tuple(told.without_view for told in conditions)
        pose = stack_poses(conditions, b) if self._camera else None
        if self._camera and pose is None:
            pose = xt.new_zeros(n * b, POSE_DIM, dtype=torch.float32)
        # log-weights of an exact prior's components become shares; token features stay as they are
        text = torch.cat(
            [c.data.exp().unsqueeze(1) if c.data.ndim == 2 else c.data for c in conditions]
        )
        out = self.net(
            xt.float().repeat(n, 1, 1, 1),
            (t * 1000).repeat(n),
            text.to(torch.float32),
            pose,
            return_dict=False,
        )[0]
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return [
            Prediction.from_output(self.prediction_type, part, xt.float(), alpha, sigma)
            for part in out.chunk(n)
        ]


class _SmallUNetCriticModel(Critic):
    def __init__(self, spec: SmallUNetCritic, prior: Prior, seed: int):
        self.camera = spec.camera
        with torch.random.fork_rng(devices=[]):  # diffusers draws weights from the global generator
            torch.manual_seed(seed)
            self._small = _SmallUNetPrior(prior, spec.width, spec.camera)
        self._trainer = CriticTrainer(
            list(self._small.net.parameters()), spec.training, self._small.prediction_type, spec.camera
        )

    def prior(self) -> Prior:
        return self._small

    def observe(self, sample: StepInputs) -> None:
        pass

    def fit(self, sample: StepInputs) -> dict[str, Tensor]:
        return self._trainer.fit(self._small, sample)

    def tensors(self) -> dict[str, Tensor]:
        memory = {
            f"optimizer.{k}": v for k, v in optimizer_tensors(self._trainer.optimizer).items()
        }
        return {f"net.{k}": v for k, v in self._small.net.state_dict().items()} | memory

    def load(self, tensors: dict[str, Tensor]) -> None:
        load_trained(self._small.net, self._trainer, tensors, "net.")

    def save(self, folder: Path) -> None:
        self._small.net.save_pretrained(folder / "unet")
