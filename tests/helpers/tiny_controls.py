"""A tiny ControlNet of random weights for a tiny pipeline, and its image."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from tiny_pipeline import rng
from torch import Tensor


def write_control_net(pipeline: Path, folder: Path) -> Path:
    """Write a ControlNet for the U-Net of a pipeline folder, with 2 pixels per latent."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
        for parameter in network.parameters():
            # the layers that start at zero would hide all others
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    return folder


def write_control_image(path: Path, size: int = 16) -> Tensor:
    """Write an image of random blocks; return it as read, ``[3, size, size]``."""
    blocks = torch.randint(0, 256, (3, 4, 4), generator=rng(11), dtype=torch.uint8)
    pixels = blocks.repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    return pixels.float() / 255
