"""One tiny MVDream of random weights, in every layout in which such models are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_families import original_unet_key, write_eps, write_single
from torch import Tensor

LAYOUTS = ("native", "original-names", "camera-part", "pickle")
CAMERA_NAMES = {"linear_1": "camera_embed.0", "linear_2": "camera_embed.2"}
NEGATIVE = "low quality"


def make_unet():
    """The U-Net with its camera layers, which must matter in tests, as must the text."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(32, 64),
            norm_num_groups=32,  # the original code has no other number
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=16,
        )
    for name, weight in unet.named_parameters():
        if name.endswith(("to_v.weight", "to_out.0.weight")) or "class_embedding" in name:
            weight.data *= 4
    return unet.eval()


def original_name(key: str) -> str:
    """The name of a weight in the original code."""
    if key.startswith("class_embedding."):
        _, layer, kind = key.split(".")
        return f"{CAMERA_NAMES[layer]}.{kind}"
    return original_unet_key(key)


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_mvdream(layout: str, folder: Path) -> tuple[Path, Path | None]:
    """Write the model in a layout.

    Returns:
        The model, and the folder of configurations that a pickle needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base, unet = write_eps(folder), make_unet()
    if layout == "pickle":
        return write_pickle(base, unet, folder), base
    shutil.rmtree(base / "unet")
    if layout == "native":
        unet.save_pretrained(base / "unet")
        return base, None
    weights = {k: v.contiguous() for k, v in unet.state_dict().items()}
    (base / "unet").mkdir()
    index = base / "model_index.json"
    if layout == "original-names":
        change_json(index, _class_name="MVDreamPipeline", unet=["mv_unet", "MultiViewUNetModel"])
        options = {
            "_class_name": "MultiViewUNetModel",
            "image_size": 8,
            "in_channels": 4,
            "model_channels": 32,
            "out_channels": 4,
            "num_res_blocks": 1,
            "attention_resolutions": [1],
            "channel_mult": [1, 2],
            "num_heads": 4,
            "num_head_channels": -1,
            "transformer_depth": 1,
            "context_dim": 32,
            "camera_dim": 16,
            "ip_dim": 0,
        }
        weights = {original_name(key): weight for key, weight in weights.items()}
    else:
        part = ["mvdream.camera_proj", "CameraMatrixEmbedding"]
        change_json(index, _class_name="MVDreamPipeline", camera_proj=part)
        options = dict(unet.config) | {"_class_name": "UNet2DConditionModel"}
        options |= {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
        camera = {
            key.removeprefix("class_embedding."): weights.pop(key)
            for key in list(weights)
            if key.startswith("class_embedding.")
        }
        (base / "camera_proj").mkdir()
        save_file(camera, base / "camera_proj" / "diffusion_pytorch_model.safetensors")
        (base / "camera_proj" / "config.json").write_text('{"in_channels": 16}')
    (base / "unet" / "config.json").write_text(json.dumps(options, default=list))
    save_file(weights, base / "unet" / "diffusion_pytorch_model.safetensors")
    return base, None


def write_pickle(base: Path, unet: torch.nn.Module, folder: Path) -> Path:
    """Write the flat pickle of the original code; ``base`` gets options without camera layers."""
    plain = {k: v for k, v in unet.state_dict().items() if not k.startswith("class_embedding.")}
    change_json(base / "unet" / "config.json", norm_num_groups=32)
    save_file(plain, base / "unet" / "diffusion_pytorch_model.safetensors")
    tensors: dict[str, Tensor] = load_file(write_single(base, folder / "single.safetensors"))
    for key, weight in unet.state_dict().items():
        if key.startswith("class_embedding."):
            tensors[f"model.diffusion_model.{original_name(key)}"] = weight.clone()
    torch.save(tensors, folder / "sd-v1.5-4view.pt")
    return folder / "sd-v1.5-4view.pt"
