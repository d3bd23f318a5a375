"""One tiny Zero123 of random weights, in both layouts in which such models are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_families import write_eps
from tiny_mvdream import change_json

#: class of the pipeline, folder of the linear layer, and prefix of its weights
LAYOUTS = {
    "Zero123Pipeline": ("clip_camera_projection", "proj"),
    "Zero1to3StableDiffusionPipeline": ("cc_projection", "projection"),
}
EMBEDDING = 16  #: numbers of the image embedding
TOKEN = 32


def make_unet():
    """A U-Net in which the token must matter, as must the image latents."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(32, 64),
            norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=TOKEN,
            attention_head_dim=4,
        )
    for name, weight in unet.named_parameters():
        if name.endswith(("to_v.weight", "to_out.0.weight")):
            weight.data *= 4
    return unet.eval()


def make_image_encoder():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=EMBEDDING,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        return CLIPVisionModelWithProjection(config).eval()


def make_projection() -> torch.nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return torch.nn.Linear(EMBEDDING + 4, TOKEN).requires_grad_(False)


def write_zero123(folder: Path, layout: str = "Zero123Pipeline") -> Path:
    """Write the model; its autoencoder makes 8 x 8 latents of 16 x 16 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    base = write_eps(folder)
    for part in ("unet", "text_encoder", "tokenizer"):
        shutil.rmtree(base / part)
    make_unet().save_pretrained(base / "unet")
    make_image_encoder().save_pretrained(base / "image_encoder")
    part, prefix = LAYOUTS[layout]
    (base / part).mkdir()
    layer = make_projection()
    weights = {f"{prefix}.weight": layer.weight.data, f"{prefix}.bias": layer.bias.data}
    save_file(weights, base / part / "diffusion_pytorch_model.safetensors")
    (base / part / "config.json").write_text(json.dumps({"_class_name": "Projection"}))
    index = {part: ["pipeline", "Projection"], "tokenizer": [None, None]}
    index |= {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}
    change_json(base / "model_index.json", _class_name=layout, text_encoder=[None, None], **index)
    return base
