"""Autoencoder of the world: 64 x 64 x 3 images to 16 x 16 x 4 standardized latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from limbeck.world.render_cache import images_to_tensor, load_images
from limbeck.world.trainer import Task


def build_autoencoder() -> AutoencoderKL:
    """Return an untrained network: 0.9 M parameters, factor 4."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        sample_size=64,
        layers_per_block=1,
        norm_num_groups=8,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


class _Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = build_autoencoder()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        posterior = self.net.encode(images * 2 - 1).latent_dist
        out = self.net.decode(posterior.sample()).sample.float()
        error = out - (images * 2 - 1)
        # errors of tone that L1 alone leaves show in the means of neighborhoods
        coarse = F.avg_pool2d(error, 4)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        mse = error.square().mean()
        loss = error.abs().mean() + 2 * mse + coarse.abs().mean() + 3e-4 * kl
        return {"loss": loss, "mse": mse, "kl": kl}


@dataclass(frozen=True)
class AutoencoderTask(Task[_Training]):
    """Training of the autoencoder.

    Trains on quarter crops, and on whole images in the last quarter of the budget, which adds
    about 1 dB quickly.

    Attributes:
        train_folder: renders to train on, see ``prepare_renders``.
        test_folder: renders for the previews.
        batch_size: crops per worker and step; a quarter as many whole images.
        name: name of the checkpoint and log files.
        lr: peak learning rate.
        ema_decay: decay of the moving average of the weights.
        decay_start: share of the budget after which the rate falls linearly to 0.
    """

    train_folder: Path
    test_folder: Path
    batch_size: int = 16
    name: str = "autoencoder"
    lr: float = 2e-3
    ema_decay: float = 0.995
    decay_start: float = 0.3

    def build(self) -> _Training:
        return _Training()

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        images = load_images(self.train_folder)
        whole = progress > 0.75
        size = self.batch_size // 4 if whole else self.batch_size
        rows = torch.randint(len(images), (size,), generator=rng).numpy()
        x = images_to_tensor(images[rows])
        if not whole:
            top, left = torch.randint(0, 33, (2,), generator=rng).tolist()
            x = x[..., top : top + 32, left : left + 32]
        return (x.contiguous(),)

    def preview(self, model: _Training, folder: Path, minute: float) -> dict[str, float]:
        images = images_to_tensor(load_images(self.test_folder)[:200])
        return {"psnr": round(psnr(reconstruct(model.net, images), images), 2)}


@torch.no_grad()
def reconstruct(net: AutoencoderKL, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Encode images in [0, 1] to their mean latents and decode these."""
    parts = [net.decode(net.encode(x * 2 - 1).latent_dist.mean).sample for x in images.split(50)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def psnr(a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> float:
    """Return the peak signal-to-noise ratio in dB of images in [0, 1], averaged over images."""
    return (-10 * (a - b).square().mean((1, 2, 3)).log10()).mean().item()


@torch.no_grad()
def encode_means(
    net: AutoencoderKL, images: UInt8[np.ndarray, "n 64 64 3"], chunk: int = 64
) -> Float[Tensor, "n 4 16 16"]:
    """Encode uint8 images to their mean latents.

    Runs in bfloat16, whose rounding is well below the standard deviation of the posterior.

    Args:
        net: the autoencoder.
        images: images, or a memory map of them.
        chunk: images per call of the network.
    """
    parts = []
    for i in range(0, len(images), chunk):
        x = images_to_tensor(images[i : i + chunk]) * 2 - 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(net.encode(x).latent_dist.mean.float())
    return torch.cat(parts)


@torch.no_grad()
def standardize_latents(net: AutoencoderKL, latents: Float[Tensor, "n 4 h w"]) -> None:
    """Change an autoencoder in place so that its latents have mean 0 and standard deviation 1.

    A shift and a scale per channel are folded into the 1x1 convolutions around the latent. Exact
    up to rounding: reconstructions do not change. The log-variance of the posterior shifts
    accordingly.

    Args:
        net: the autoencoder.
        latents: mean latents of a sample of images, for their statistics.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    c = len(std)
    quant, post_quant = net.quant_conv, net.post_quant_conv
    # encoder: z' = (z - mean) / std; the second half of the channels is the log-variance, which
    # shifts by -2 log std
    quant.bias[:c] = (quant.bias[:c] - mean) / std
    quant.weight[:c] /= std[:, None, None, None]
    quant.bias[c:] -= 2 * std.log()
    # decoder: z = z' std + mean
    post_quant.bias += (post_quant.weight[:, :, 0, 0] * mean).sum(1)
    post_quant.weight *= std[None, :, None, None]
    assert math.isfinite(post_quant.bias.sum().item())
