"""Priors with the shapes of published models and random weights; nothing is read or downloaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.priors.checkpoint_files import CheckpointFiles
from limbeck.priors.diffusers_base import DiffusersPrior
from limbeck.priors.sdxl import SDXL
from limbeck.priors.stable_diffusion import StableDiffusion

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "leading",
}


def unet_config(
    channels: Sequence[int],
    attention: Sequence[bool],
    sample_size: int,
    num_heads: int | Sequence[int],
    text_dim: int,
    **options: Any,
) -> dict[str, Any]:
    """Configuration of a U-Net.

    Args:
        channels: channels of each resolution, finest first.
        attention: whether each resolution has attention.
        sample_size: height and width of the latents.
        num_heads: attention heads.
        text_dim: width of the text embedding.
        **options: further options of the class.
    """
    down = ["CrossAttnDownBlock2D" if used else "DownBlock2D" for used in attention]
    up = ["CrossAttnUpBlock2D" if used else "UpBlock2D" for used in attention]
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": sample_size,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": tuple(channels),
        "down_block_types": tuple(down),
        "up_block_types": tuple(reversed(up)),
        "attention_head_dim": num_heads,
        "cross_attention_dim": text_dim,
        **options,
    }


def vae_config(channels: Sequence[int], layers: int, scaling_factor: float) -> dict[str, Any]:
    """Configuration of an autoencoder."""
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": tuple(channels),
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "layers_per_block": layers,
        "latent_channels": 4,
        "scaling_factor": scaling_factor,
    }


class PipelineShape(NamedTuple):
    """Configurations of a pipeline."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    prediction_type: str = "epsilon"


SMALL_VAE = vae_config((32, 32, 32, 32), 1, 0.18215)
SD_VAE = vae_config((128, 256, 512, 512), 2, 0.18215)
SD_CHANNELS, SD_ATTENTION = (320, 640, 1280, 1280), (True, True, True, False)
XL_CONDITIONING = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

SHAPES = {
    # attention at the coarser resolutions only, as the embedded model and XL
    "small": PipelineShape(
        unet_config((96, 160, 192), (False, True, True), 64, 4, 768, layers_per_block=1), SMALL_VAE
    ),
    # attention at the finest resolution too, 4096 x 4096 scores per head, as Stable Diffusion 1, 2
    "attentive": PipelineShape(
        unet_config((64, 128, 192, 192), SD_ATTENTION, 64, 2, 768, layers_per_block=1), SMALL_VAE
    ),
    "sd15": PipelineShape(unet_config(SD_CHANNELS, SD_ATTENTION, 64, 8, 768), SD_VAE),
    "sd21": PipelineShape(
        unet_config(
            SD_CHANNELS, SD_ATTENTION, 96, (5, 10, 20, 20), 1024, use_linear_projection=True
        ),
        SD_VAE,
        "v_prediction",
    ),
    "xl": PipelineShape(
        unet_config(
            (320, 640, 1280),
            (False, True, True),
            128,
            (5, 10, 20),
            2048,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2, 10),
            **XL_CONDITIONING,
        ),
        vae_config((128, 256, 512, 512), 2, 0.13025),
    ),
}


@dataclass(frozen=True)
class RandomFiles(CheckpointFiles):
    """Files of a pipeline that does not exist: configurations of a shape and random weights.

    Attributes:
        shape: name in ``SHAPES``.
    """

    shape: str = ""

    def read_config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        shape = SHAPES[self.shape]
        configs = {
            "unet": shape.unet,
            "vae": shape.vae,
            "scheduler": {**SCHEDULER, "prediction_type": shape.prediction_type},
        }
        return configs.get(part, {"projection_dim": 1280})

    def load_module(self, cls: Any, part: str, dtype: torch.dtype) -> nn.Module:
        config = {k: v for k, v in self.read_config(part).items() if not k.startswith("_")}
        return random_module(cls, config, dtype)


def random_module(cls: Any, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """A module with weights of the usual scale.

    One block of random numbers is repeated for all weights, which is fast at any size.
    """
    with torch.device("meta"):
        module = cls(**config)
    module = module.to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    block = torch.rand(2**20 - 3, generator=rng).mul(2).sub(1).to(dtype)
    for name, weight in module.named_parameters():
        if weight.ndim < 2:
            weight.fill_(float(name.endswith("weight")))
            continue
        bound = 1 / math.sqrt(weight[0].numel())
        for part in weight.view(-1).split(len(block)):
            torch.mul(block[: len(part)], bound, out=part)
    return module


class RandomText(DiffusersPrior):
    """Random embeddings for any prompt."""

    def _encode(self, prompts: list[str]) -> Condition:
        rng, config = torch.Generator().manual_seed(0), self.network.config
        tokens = torch.randn(len(prompts), 77, config.cross_attention_dim, generator=rng)
        pooled = None
        if config.addition_embed_type:
            pooled = torch.randn(len(prompts), 1280, generator=rng).to(self.device)
        return Condition(tokens.to(self.device), None, pooled)


class RandomStableDiffusion(RandomText, StableDiffusion):
    """Stable Diffusion with random weights."""


class RandomSDXL(RandomText, SDXL):
    """SDXL with random weights."""


def random_prior(
    shape: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    runtime: RuntimeOptions = RuntimeOptions(),  # noqa: B008
) -> DiffusersPrior:
    """A prior with one of ``SHAPES`` and random weights."""
    cls = RandomSDXL if shape == "xl" else RandomStableDiffusion
    return cls(RandomFiles(Path(shape), None, shape), device, dtype, runtime=runtime)
