"""Networks of true shapes with random weights, for the benchmarks: nothing is read from disk and nothing downloaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.priors.checkpoint_files import CheckpointFiles
from limbeck.priors.diffusers_base import DiffusersPrior
from limbeck.priors.sdxl import SDXL
from limbeck.priors.stable_diffusion import StableDiffusion

SCHEDULER = dict(
    _class_name="DDIMScheduler", num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    prediction_type="epsilon", rescale_betas_zero_snr=False, timestep_spacing="leading",
)  # fmt: skip
ATTENDS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")


def unet(
    channels: Sequence[int], attends: Sequence[bool], size: int, heads: Any, words: int, **more: Any
) -> dict[str, Any]:
    """A configuration of a U-Net; ``attends`` says at which resolutions, finest first."""
    blocks = [ATTENDS if yes else PLAIN for yes in attends]
    return dict(
        _class_name="UNet2DConditionModel", sample_size=size, in_channels=4, out_channels=4, block_out_channels=tuple(channels),
        down_block_types=tuple(b[0] for b in blocks), up_block_types=tuple(b[1] for b in reversed(blocks)),
        attention_head_dim=heads, cross_attention_dim=words, **more,
    )  # fmt: skip


def vae(channels: Sequence[int], layers: int, scaling: float) -> dict[str, Any]:
    return dict(
        _class_name="AutoencoderKL", block_out_channels=tuple(channels), down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels), layers_per_block=layers, latent_channels=4, scaling_factor=scaling,
    )  # fmt: skip


SMALL, FULL = vae((32, 32, 32, 32), 1, 0.18215), vae((128, 256, 512, 512), 2, 0.18215)
ADDED = dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {  #: U-Net, autoencoder, prediction
    # attention at the coarser resolutions only, as the embedded model and XL have it
    "small": (unet((96, 160, 192), (False, True, True), 64, 4, 768, layers_per_block=1), SMALL, "epsilon"),
    # attention at the finest resolution too, 4096 x 4096 scores a head, as Stable Diffusion 1 and 2 have it
    "attentive": (unet((64, 128, 192, 192), (True, True, True, False), 64, 2, 768, layers_per_block=1), SMALL, "epsilon"),
    "sd15": (unet((320, 640, 1280, 1280), (True, True, True, False), 64, 8, 768), FULL, "epsilon"),
    "sd21": (unet((320, 640, 1280, 1280), (True, True, True, False), 96, (5, 10, 20, 20), 1024, use_linear_projection=True),
             FULL, "v_prediction"),
    "xl": (unet((320, 640, 1280), (False, True, True), 128, (5, 10, 20), 2048, use_linear_projection=True,
                transformer_layers_per_block=(1, 2, 10), **ADDED), vae((128, 256, 512, 512), 2, 0.13025), "epsilon"),
}  # fmt: skip


@dataclass(frozen=True)
class Made(CheckpointFiles):
    """A pipeline that is made and not read."""

    shape: str = ""

    def read(self, part: str, file: str = "config.json") -> dict[str, Any]:
        network, autoencoder, kind = SHAPES[self.shape]
        known = {
            "unet": network,
            "vae": autoencoder,
            "scheduler": SCHEDULER | {"prediction_type": kind},
        }
        return known.get(part, {"projection_dim": 1280})

    def module(self, cls: Any, part: str, dtype: torch.dtype) -> nn.Module:
        return filled(cls, {k: v for k, v in self.read(part).items() if k[0] != "_"}, dtype)


def filled(cls: Any, config: dict[str, Any], dtype: torch.dtype) -> nn.Module:
    """A module with weights of the usual spread, from one block of random numbers said again and again: quick at any size."""
    with torch.device("meta"):
        made = cls(**config)
    made = made.to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
    block = (
        torch.rand(2**20 - 3, generator=torch.Generator().manual_seed(0)).mul(2).sub(1).to(dtype)
    )
    for name, weight in made.named_parameters():
        if weight.ndim < 2:
            weight.fill_(float(name.endswith("weight")))
            continue
        bound = 1 / math.sqrt(weight[0].numel())
        for part in weight.view(-1).split(len(block)):
            torch.mul(block[: len(part)], bound, out=part)
    return made


class Spoken(DiffusersPrior):
    """Random features for any text."""

    def _encode(self, prompts: list[str]) -> Condition:
        rng, config = torch.Generator().manual_seed(0), self.network.config
        tokens = torch.randn(len(prompts), 77, config.cross_attention_dim, generator=rng).to(
            self.device
        )
        pooled = (
            torch.randn(len(prompts), 1280, generator=rng).to(self.device)
            if config.addition_embed_type
            else None
        )
        return Condition(tokens, None, pooled)


class RandomStable(Spoken, StableDiffusion):
    pass


class RandomXL(Spoken, SDXL):
    pass


def prior(
    shape: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    running: RuntimeOptions = RuntimeOptions(),
) -> Any:  # noqa: B008
    """The prior of one of ``SHAPES``."""
    cls = RandomXL if shape == "xl" else RandomStable
    return cls(Made(Path(shape), None, shape), device, dtype, running=running)
