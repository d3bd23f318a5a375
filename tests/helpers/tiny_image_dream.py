"""One tiny ImageDream of random weights, in the layouts in which such models are published."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_mvdream import change_json, write_mvdream
from tiny_zero123 import make_image_encoder

TOKENS, HEADS, DEPTH = 3, 2, 4  #: of the resampler; its heads have 64 channels
WIDTH = 32  #: of the text, of the features of CLIP and of the resampler


def image_layers(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """The weights that MVDream does not have, with the names of the original code.

    Args:
        shapes: shapes of the weights of MVDream.
    """
    rng = torch.Generator().manual_seed(11)

    def normal(*shape: int, scale: float = 0.4) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) * scale

    weights = {"image_embed.latents": normal(1, TOKENS, WIDTH)}
    for name, rows in (("proj_in", WIDTH), ("proj_out", WIDTH)):
        weights |= {
            f"image_embed.{name}.weight": normal(rows, WIDTH),
            f"image_embed.{name}.bias": normal(rows),
        }
    norms = ["norm_out"]
    for i in range(DEPTH):
        at, ff = f"image_embed.layers.{i}.0", f"image_embed.layers.{i}.1"
        norms += [f"layers.{i}.0.norm1", f"layers.{i}.0.norm2", f"layers.{i}.1.0"]
        weights |= {
            f"{at}.to_q.weight": normal(64 * HEADS, WIDTH),
            f"{at}.to_kv.weight": normal(128 * HEADS, WIDTH),
            f"{at}.to_out.weight": normal(WIDTH, 64 * HEADS),
            f"{ff}.1.weight": normal(4 * WIDTH, WIDTH),
            f"{ff}.3.weight": normal(WIDTH, 4 * WIDTH),
        }
    for name in norms:
        weights |= {
            f"image_embed.{name}.weight": 1 + normal(WIDTH),
            f"image_embed.{name}.bias": normal(WIDTH),
        }
    for name, shape in shapes.items():
        if name.endswith("attn2.to_k.weight"):
            for kind in ("to_k_ip", "to_v_ip"):
                weights[name.replace("to_k", kind)] = 4 * normal(*shape)
    return weights


def write_image_dream(layout: str, folder: Path) -> tuple[Path, Path | None]:
    """Write the model in a layout, original-names or pickle.

    Returns:
        The model, and the folder of configurations that a pickle needs.
    """
    model, config = write_mvdream(layout, folder)
    base = config or model
    make_image_encoder().save_pretrained(base / "image_encoder")
    change_json(
        base / "model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"]
    )
    prefix = ""
    if layout == "pickle":
        weights, prefix = torch.load(model, weights_only=True), "model.diffusion_model."
    else:
        file = model / "unet" / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        change_json(model / "unet" / "config.json", ip_dim=TOKENS)
    shapes = {k.removeprefix(prefix): v.shape for k, v in weights.items() if k.startswith(prefix)}
    weights |= {f"{prefix}{name}": weight for name, weight in image_layers(shapes).items()}
    if layout != "pickle":
        save_file({k: v.contiguous() for k, v in weights.items()}, file)
        return model, None
    model.unlink()
    torch.save(weights, folder / "sd-v2.1-base-4view-ipmv.pt")
    return folder / "sd-v2.1-base-4view-ipmv.pt", config
