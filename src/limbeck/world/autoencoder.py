"""The world's autoencoder: 64x64x3 pictures to 16x16x4 latents of mean 0 and deviation 1 in every channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.world.render_cache import as_images, load_pictures
from limbeck.world.trainer import Task


def build_autoencoder() -> AutoencoderKL:
    """Untrained network: 0.9 M parameters, factor 4."""
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, sample_size=64, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 32, 64), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, mid_block_add_attention=False, scaling_factor=1.0,
    )  # fmt: skip


class _Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = build_autoencoder()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        posterior = self.net.encode(images * 2 - 1).latent_dist
        out = self.net.decode(posterior.sample()).sample.float()
        error = out - (images * 2 - 1)
        # the mean of neighbourhoods weighs errors of tone that L1 alone leaves
        coarse = F.avg_pool2d(error, 4)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        mse = error.square().mean()
        loss = error.abs().mean() + 2 * mse + coarse.abs().mean() + 3e-4 * kl
        return {"loss": loss, "mse": mse, "kl": kl}


@dataclass(frozen=True)
class AutoencoderTask(Task[_Training]):
    """Quarter crops for most of the time, whole pictures at the end (they bring about 1 dB quickly)."""

    data: Path
    test: Path
    size: int = 16
    name: str = "autoencoder"
    rate: float = 2e-3
    average: float = 0.995
    decay_from: float = 0.3

    def build(self) -> _Training:
        return _Training()

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        pictures = load_pictures(self.data)
        whole = progress > 0.75
        rows = torch.randint(
            len(pictures), (self.size // 4 if whole else self.size,), generator=rng
        ).numpy()
        x = as_images(pictures[rows])
        if not whole:
            top, left = torch.randint(0, 33, (2,), generator=rng).tolist()
            x = x[..., top : top + 32, left : left + 32]
        return (x.contiguous(),)

    def preview(self, model: _Training, folder: Path, minute: float) -> dict[str, float]:
        images = as_images(load_pictures(self.test)[:200])
        return {"psnr": round(psnr(reconstruct(model.net, images), images), 2)}


@torch.no_grad()
def reconstruct(net: AutoencoderKL, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """There and back through the mean latent."""
    parts = [net.decode(net.encode(x * 2 - 1).latent_dist.mean).sample for x in images.split(50)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB, images in [0, 1]."""
    return (-10 * (a - b).square().mean((1, 2, 3)).log10()).mean().item()


@torch.no_grad()
def encode_all(net: AutoencoderKL, pictures, chunk: int = 64) -> Float[Tensor, "n 4 16 16"]:
    """Mean latents of uint8 pictures; in bfloat16, whose rounding is well below the posterior's own deviation."""
    parts = []
    for i in range(0, len(pictures), chunk):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(
                net.encode(as_images(pictures[i : i + chunk]) * 2 - 1).latent_dist.mean.float()
            )
    return torch.cat(parts)


@torch.no_grad()
def standardise(net: AutoencoderKL, latents: Float[Tensor, "n 4 h w"]) -> None:
    """Fold a per-channel shift and scale into the 1x1 convolutions around the latent, so that its deviation is 1.

    Exact up to rounding: the pictures that come out do not change. The posterior's log-variance shifts alike.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    c = len(std)
    quant, post = net.quant_conv, net.post_quant_conv
    # encode: z' = (z - mean) / std; the second half of the channels is log-variance, which moves by -2 log std
    quant.bias[:c] = (quant.bias[:c] - mean) / std
    quant.weight[:c] /= std[:, None, None, None]
    quant.bias[c:] -= 2 * std.log()
    # decode: z = z' std + mean
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]
    assert math.isfinite(post.bias.sum().item())
