"""An ImageReward of random weights, with the tensor names of the authors' file, in plain torch."""

from pathlib import Path

import torch
import torch.nn.functional as F

WIDTH, VISION, LAYERS, PATCH, SIZE = 32, 48, 2, 8, 32
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "yellow", "red", "duck", "car"]


def _linear(name, out, into):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _shapes():
    text, vision = "blip.text_encoder.", "blip.visual_encoder."
    shapes = {
        text + "embeddings.word_embeddings.weight": (len(WORDS) + 2, WIDTH),
        text + "embeddings.position_embeddings.weight": (40, WIDTH),
        **_norm(text + "embeddings.LayerNorm", WIDTH),
        vision + "cls_token": (1, 1, VISION),
        vision + "pos_embed": (1, (SIZE // PATCH) ** 2 + 1, VISION),
        vision + "patch_embed.proj.weight": (VISION, 3, PATCH, PATCH),
        vision + "patch_embed.proj.bias": (VISION,),
        **_norm(vision + "norm", VISION),
        **_linear("blip.vision_proj", 16, VISION),
        **_linear("blip.text_proj", 16, WIDTH),
    }
    for i in range(LAYERS):
        layer, block = f"{text}encoder.layer.{i}.", f"{vision}blocks.{i}."
        for name, into in (("attention", WIDTH), ("crossattention", VISION)):
            shapes |= _linear(f"{layer}{name}.self.query", WIDTH, WIDTH)
            shapes |= _linear(f"{layer}{name}.self.key", WIDTH, into)
            shapes |= _linear(f"{layer}{name}.self.value", WIDTH, into)
            shapes |= _linear(f"{layer}{name}.output.dense", WIDTH, WIDTH)
            shapes |= _norm(f"{layer}{name}.output.LayerNorm", WIDTH)
        shapes |= _linear(f"{layer}intermediate.dense", 2 * WIDTH, WIDTH)
        shapes |= _linear(f"{layer}output.dense", WIDTH, 2 * WIDTH)
        shapes |= _norm(f"{layer}output.LayerNorm", WIDTH)
        shapes |= _norm(f"{block}norm1", VISION) | _norm(f"{block}norm2", VISION)
        shapes |= _linear(f"{block}attn.qkv", 3 * VISION, VISION)
        shapes |= _linear(f"{block}attn.proj", VISION, VISION)
        shapes |= _linear(f"{block}mlp.fc1", 2 * VISION, VISION)
        shapes |= _linear(f"{block}mlp.fc2", VISION, 2 * VISION)
    sizes = (WIDTH, 24, 16, 8, 4, 1)
    for index, into, out in zip((0, 2, 4, 6, 7), sizes[:-1], sizes[1:], strict=True):
        shapes |= _linear(f"mlp.layers.{index}", out, into)
    return shapes


def write_image_reward(folder: Path) -> Path:
    """Write ImageReward.pt and the vocabulary of its tokenizer into ``folder``."""
    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=rng) * 0.3 + ("norm" in name.lower())
        for name, shape in _shapes().items()
    }
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(weights, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def reward(weights, pixels, words):
    """Score of one image for one prompt, by the definitions of ViT, BERT and BLIP.

    One attention head each, as of widths up to 64.

    Args:
        weights: content of ImageReward.pt.
        pixels: normalized image, ``[3, SIZE, SIZE]``.
        words: the words of the prompt.
    """

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x, eps):
        centered = x - x.mean(-1, keepdim=True)
        scaled = centered / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(q, k, v):
        return (q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v

    vision, text = "blip.visual_encoder.", "blip.text_encoder."
    tiles = pixels.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)  # 3, rows, columns, y, x
    tiles = tiles.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    kernel = weights[vision + "patch_embed.proj.weight"].flatten(1)
    patches = tiles @ kernel.T + weights[vision + "patch_embed.proj.bias"]
    x = torch.cat([weights[vision + "cls_token"][0], patches]) + weights[vision + "pos_embed"][0]
    for i in range(LAYERS):
        block = f"{vision}blocks.{i}."
        q, k, v = linear(block + "attn.qkv", norm(block + "norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(block + "attn.proj", attend(q, k, v))
        hidden = F.gelu(linear(block + "mlp.fc1", norm(block + "norm2", x, 1e-6)))
        x = x + linear(block + "mlp.fc2", hidden)
    image = norm(vision + "norm", x, 1e-6)
    ids = [WORDS.index(word) for word in ("[CLS]", *words, "[SEP]")]  # padding is not attended to
    y = weights[text + "embeddings.word_embeddings.weight"][ids]
    y = y + weights[text + "embeddings.position_embeddings.weight"][: len(ids)]
    y = norm(text + "embeddings.LayerNorm", y, 1e-12)
    for i in range(LAYERS):
        layer = f"{text}encoder.layer.{i}."
        for name, source in (("attention", None), ("crossattention", image)):
            seen = y if source is None else source
            own = f"{layer}{name}."
            mixed = attend(
                linear(own + "self.query", y),
                linear(own + "self.key", seen),
                linear(own + "self.value", seen),
            )
            y = norm(own + "output.LayerNorm", linear(own + "output.dense", mixed) + y, 1e-12)
        hidden = F.gelu(linear(layer + "intermediate.dense", y))
        y = norm(layer + "output.LayerNorm", linear(layer + "output.dense", hidden) + y, 1e-12)
    score = y[0]
    for index in (0, 2, 4, 6, 7):
        score = linear(f"mlp.layers.{index}", score)
    return ((score - 0.16717362830052426) / 1.0333394966054072).item()
