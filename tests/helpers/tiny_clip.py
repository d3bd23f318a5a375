"""A CLIP model of random weights in the layout of a download."""

from pathlib import Path

import torch

from limbeck.metrics.r_precision import distractor_prompts


def write_clip(folder: Path) -> Path:
    """Write a CLIPModel and a tokenizer that knows the world's objects into ``folder``."""
    from transformers import CLIPConfig, CLIPModel

    from limbeck.world.denoiser import build_tokenizer

    texts = [*distractor_prompts("a yellow duck"), "a yellow duck"]
    tokenizer = build_tokenizer(texts, folder / "words")
    tokenizer.model_max_length = 16
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text_config = {
        **small,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision_config = {**small, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
