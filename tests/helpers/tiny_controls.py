"""A tiny ControlNet and IP-Adapter of random weights for a tiny pipeline, and their image."""

from __future__ import annotations

from collections.abc import Callable
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


def write_ip_adapter(pipeline: Path, folder: Path, kind: str = "base") -> Path:
    """Write an IP-Adapter for the U-Net of a pipeline folder and its image encoder beside it.

    Args:
        pipeline: the pipeline folder.
        folder: where to write.
        kind: ``base`` reads one feature of the image, ``plus`` those of all patches.

    Returns:
        The file of the adapter.
    """
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    width, weights = unet.config.cross_attention_dim, {}
    generator = rng(13)

    def random(*shape: int, std: float) -> Tensor:
        return std * torch.randn(*shape, generator=generator)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                projection_dim=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=8,
                initializer_range=0.3,
            )
        ).save_pretrained(folder / "image_encoder")
    if kind == "base":
        weights |= {
            "image_proj.proj.weight": random(4 * width, 16, std=0.3),
            "image_proj.proj.bias": random(4 * width, std=0.1),
            "image_proj.norm.weight": torch.ones(width),
            "image_proj.norm.bias": torch.zeros(width),
        }
    else:
        weights |= _plus_projection(width, random)
    crossings = [name for name in unet.attn_processors if not name.endswith("attn1.processor")]
    for i, name in enumerate(crossings):
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for layer in ("to_k_ip", "to_v_ip"):
            key = f"ip_adapter.{2 * i + 1}.{layer}.weight"
            weights[key] = random(hidden, width, std=0.3)
    save_file(weights, folder / f"ip-adapter-{kind}.safetensors")
    return folder / f"ip-adapter-{kind}.safetensors"


def _plus_projection(width: int, random: Callable[..., Tensor]) -> dict[str, Tensor]:
    """The resampler of an IP-Adapter Plus: four layers of one head of 64 numbers."""
    hidden, norms = 64, {"norm_out": width}
    weights = {
        "latents": random(1, 8, hidden, std=0.5),
        "proj_in.weight": random(hidden, 32, std=0.3),
        "proj_in.bias": torch.zeros(hidden),
        "proj_out.weight": random(width, hidden, std=0.3),
        "proj_out.bias": torch.zeros(width),
    }
    for i in range(4):
        layer = f"layers.{i}"
        weights |= {
            f"{layer}.0.to_q.weight": random(hidden, hidden, std=0.3),
            f"{layer}.0.to_kv.weight": random(2 * hidden, hidden, std=0.3),
            f"{layer}.0.to_out.weight": random(hidden, hidden, std=0.3),
            f"{layer}.1.1.weight": random(4 * hidden, hidden, std=0.1),
            f"{layer}.1.3.weight": random(hidden, 4 * hidden, std=0.1),
        }
        norms |= dict.fromkeys((f"{layer}.0.norm1", f"{layer}.0.norm2", f"{layer}.1.0"), hidden)
    for name, size in norms.items():
        weights |= {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}
    return {f"image_proj.{name}": value for name, value in weights.items()}


def write_instruct_pix2pix(pipeline: Path, folder: Path) -> Path:
    """Write a StableDiffusionInstructPix2PixPipeline whose other parts are those of a pipeline."""
    from diffusers import (
        StableDiffusionInstructPix2PixPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    parts = StableDiffusionPipeline.from_pretrained(pipeline).components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        unet = UNet2DConditionModel.from_config({**parts["unet"].config, "in_channels": 8})
        for name, weight in unet.named_parameters():
            if name.endswith(("to_v.weight", "to_out.0.weight")):
                weight.data *= 4  # the text must matter
    parts |= {"unet": unet.eval(), "requires_safety_checker": False}
    StableDiffusionInstructPix2PixPipeline(**parts).save_pretrained(folder)
    return folder
