"""Zero123, Zero123-XL and Stable-Zero123: an object seen from another side than in its image.

References:
    Zero-1-to-3 (Liu et al. 2023, arXiv 2303.11328).
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.diffusion.condition import Condition
from limbeck.priors.checkpoint_files import load_frozen_module, loading, silence_library_logs
from limbeck.priors.runtime import swap_devices
from limbeck.priors.scheduler_config import read_discrete_schedule
from limbeck.priors.unet_diffusion import UNetDiffusion
from limbeck.priors.zero123_files import load_projection, pose_input

#: mean and standard deviation of the pixels of CLIP's training images
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def relative_pose(
    eye: Float[Tensor, "*b 3"], reference_eye: Float[Tensor, "*b 3"], polar_angle: bool
) -> Float[Tensor, "*b 4"]:
    """Return the position of a camera relative to that of the image, as the network takes it.

    Its world has z up and azimuths that grow from x to y, ours has y up and azimuths that grow from
    +z (front) to +x. The rotation (x, y, z) -> (z, x, y) takes ours to its: elevations and
    azimuths are the same, both growing counterclockwise seen from above.

    Args:
        eye: camera positions in our world, around the object at the origin.
        reference_eye: positions of the cameras of the images.
        polar_angle: whether the fourth number is that of Stable-Zero123.

    Returns:
        Elevation of the image minus that of the camera, sine and cosine of the azimuth of the
        camera minus that of the image, and the difference of the distances; Stable-Zero123 has
        the angle of the image's camera from the vertical in place of the latter. In radians.
    """
    (elevation, azimuth, distance), (elevation_ref, azimuth_ref, distance_ref) = (
        _spherical(position) for position in (eye, reference_eye)
    )
    turn = azimuth - azimuth_ref
    last = torch.pi / 2 - elevation_ref if polar_angle else distance - distance_ref
    return torch.stack([elevation_ref - elevation, turn.sin(), turn.cos(), last], -1)


def _spherical(position: Float[Tensor, "*b 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """Elevation, azimuth and distance of positions."""
    x, y, z = position.unbind(-1)
    return torch.atan2(y, torch.hypot(x, z)), torch.atan2(x, z), position.norm(dim=-1)


def normalize_for_clip(image: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 s s"]:
    """Return images as an image encoder of CLIP takes them.

    Args:
        image: images in [0, 1], in the size that it takes.
    """
    mean, std = (image.new_tensor(value).view(3, 1, 1) for value in (_CLIP_MEAN, _CLIP_STD))
    return (image - mean) / std


class Zero123(UNetDiffusion):
    """A ``NovelViewPrior``: the U-Net of Stable Diffusion with the latents of an image beside x_t.

    Its only token is a projection of the image embedding and the relative pose. The data of a
    condition hold what it is made of: the embedding, the position of the camera of the image, and 1
    where there is an image. Where there is none, as in the unconditional row, the token is zero.

    Attributes:
        group_size: 1; each row is a view by itself.
        projection: makes the token.
    """

    pipeline_name = "Zero123Pipeline"
    extra_parts = ("vae", "image_encoder")
    text_parts = ()
    takes_pose_input = True
    takes_adapters = False
    condition_dtype = torch.float32  # of the camera of the image, which 16 bits would move
    group_size = 1

    def _load(self) -> None:
        self._polar_angle = pose_input(self.model.name, self.model.pose_input) == "polar-angle"
        if self.model.lora is not None:
            raise ValueError(f"lora {self.model.lora}: {type(self).__name__} reads none")
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        config = self.files.full_config(UNet2DConditionModel, self.network_name)
        channels = config["out_channels"]
        self._require_config(
            config,
            in_channels=2 * channels,
            addition_embed_type=None,
            class_embed_type=None,
            time_cond_proj_dim=None,
        )
        self.unet = self.network = self._load_frozen_network(UNet2DConditionModel)
        projection = load_projection(self.files, config["cross_attention_dim"], self.dtype)
        self.projection = projection.to(self.device)
        factor = self._load_vae(channels)
        self._set_shapes(config["sample_size"], factor, 4 * factor, channels)

    def _text_width(self) -> int:
        """Numbers of a condition: embedding, position of a camera, and whether there is an image.

        The pose has as many numbers as the last two.
        """
        return self.projection.in_features

    def _encode(self, prompts: list[str]) -> Condition:
        """The unconditional row for every prompt, as no text is read."""
        return Condition(torch.zeros(len(prompts), 1, self._text_width(), device=self.device))

    def condition_on_view(
        self, image: Float[Tensor, "b 3 h w"], camera: Float[Tensor, "b 4 4"]
    ) -> Condition:
        """See ``NovelViewPrior``."""
        image = image.to(self.device, torch.float32)
        # the latents of the image are not scaled as x_t is: so the models were trained
        latents = self._denormalize(self.encode(image))
        place = self.files.place("image_encoder")
        offloaded = self.denoising_modules if self.runtime.cpu_offload else []
        with (
            torch.no_grad(),
            silence_library_logs(),
            swap_devices(offloaded, [], self.device),
            loading(f"the image encoder of {self.files.name}", passed_on=(ValueError,)),
        ):
            features = self._embed(image)
        if features.shape[1] + 4 != self._text_width():
            raise ValueError(
                f"{place}: the image encoder gives {features.shape[1]} numbers, the projection "
                f"takes {self._text_width() - 4}: they are of different models"
            )
        eye = camera[:, :3, 3].to(features)
        data = torch.cat([features, eye, torch.ones_like(eye[:, :1])], 1)
        return Condition(data[:, None], image=latents)

    def _embed(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Image embeddings of CLIP; the encoder is loaded for it and freed again."""
        from transformers import CLIPVisionModelWithProjection

        folder = self.files.folder / "image_encoder"
        encoder: Any = load_frozen_module(CLIPVisionModelWithProjection, folder, self.dtype)
        encoder = encoder.to(self.device)
        size = (encoder.config.image_size,) * 2
        # as its authors resize: corners aligned, and nothing smoothed
        resized = F.interpolate(image, size, mode="bicubic", align_corners=True)
        pixels = normalize_for_clip(resized)
        embeds: Tensor = encoder(pixels.to(self.dtype)).image_embeds
        return embeds.float()

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        image = torch.zeros_like(xt) if condition.image is None else condition.image.to(xt)
        if image.shape[2:] != xt.shape[2:]:
            raise ValueError(
                f"latents of the image are {list(image.shape[2:])}, those of the renders "
                f"{list(xt.shape[2:])}: leave out --representation.size"
            )
        width = self._text_width() - 4
        features, reference_eye, present = condition.data.split([width, 3, 1], -1)
        features, present = features.to(xt), present.to(xt)
        # positions are no parameters of critics that learn the data
        reference_eye = eye = reference_eye.detach().float()
        if condition.camera is not None:
            eye = condition.camera[:, None, :3, 3].float().expand_as(reference_eye)
        pose = relative_pose(eye, reference_eye, self._polar_angle).to(features)
        token = present * self.projection(torch.cat([features, pose], -1))
        ticks = self.schedule.timestep_index(t)
        return self._run_network(torch.cat([xt, image], 1), ticks, token)
