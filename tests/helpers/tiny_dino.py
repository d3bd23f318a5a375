"""A vision transformer of random weights in the layout of a download of DINO."""

from pathlib import Path

import torch


def write_dino(folder: Path) -> Path:
    """Write a ViTModel of 16 tokens and 2 layers into ``folder``."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
