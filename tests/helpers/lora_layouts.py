"""LoRAs of the tiny U-Net as peft writes them, and the same in other layouts."""

import torch
from safetensors.torch import load_file, save_file

RANK = 4
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def write_peft_lora(folder, target, **options):
    """Write a random LoRA of the U-Net as peft's own ``save_pretrained`` does; return the U-Net."""
    import diffusers
    from peft import LoraConfig, get_peft_model

    network = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    defaults = {"r": RANK, "lora_alpha": 10, "target_modules": TARGETS, "init_lora_weights": False}
    torch.manual_seed(1)
    get_peft_model(network, LoraConfig(**(defaults | options))).save_pretrained(target)
    return network


def read_pairs(folder):
    """A and B of a file of peft by layer."""
    tensors = load_file(folder / "adapter_model.safetensors")
    keys = {key.removeprefix("base_model.model.").removesuffix(".weight"): key for key in tensors}
    return {
        name.removesuffix(".lora_A"): (
            tensors[key],
            tensors[keys[name.removesuffix("_A") + "_B"]],
        )
        for name, key in keys.items()
        if name.endswith(".lora_A")
    }


def in_diffusers_layout(pairs):
    return {
        f"unet.{name}.lora_{kind}.weight": matrix
        for name, pair in pairs.items()
        for kind, matrix in zip("AB", pair, strict=True)
    }


def in_old_layout(pairs, prefix=""):
    """Attention processors, as diffusers wrote them before 0.25, with and without ``unet.``."""
    tensors = {}
    for name, pair in pairs.items():
        block, projection = name.removesuffix(".0").rsplit(".", 1)
        for kind, matrix in zip(("down", "up"), pair, strict=True):
            key = f"{prefix}{block}.processor.{projection}_lora.{kind}.weight"
            tensors[key] = matrix
    return tensors


def in_kohya_layout(pairs):
    tensors = {}
    for name, pair in pairs.items():
        for kind, matrix in zip(("down", "up"), pair, strict=True):
            tensors[f"lora_unet_{name.replace('.', '_')}.lora_{kind}.weight"] = matrix
    return tensors


def save(tensors, path):
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    return path
