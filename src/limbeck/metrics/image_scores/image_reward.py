"""ImageReward: a BLIP that was trained on rankings by annotators."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.clip import MEAN, STD
from limbeck.metrics.image_scores.base import ImageScore
from limbeck.priors.hub import REPO_ID_PATTERN, resolve_files
from limbeck.system.files import one_line

WEIGHTS = "ImageReward.pt"
TOKENIZER = "google-bert/bert-base-uncased"  #: where the folder of the weights has no tokenizer
#: mean and standard deviation of the raw score on the authors' data
SCORE_MEAN, SCORE_STD = 0.16717362830052426, 1.0333394966054072
_MAX_TOKENS = 35
_HEAD_SIZE = 64  #: of BERT and ViT alike; the file does not say it
_CHUNK = 16
_TEXT, _VISION, _HEAD = "blip.text_encoder.", "blip.visual_encoder.", "mlp.layers."
#: of the pretraining of BLIP, and indices that transformers computes
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", _TEXT + "embeddings.position_ids")
_RENAMED = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"^norm\.", "post_layernorm."),
)


class ImageReward(ImageScore):
    """A linear head on the first token of BLIP's text encoder, which attends to the image.

    Score: (head(text_encoder(prompt, image)[first token]) - 0.167) / 1.033. Range: real, about -2.3
    to 2; mean 0 and standard deviation 1 on the authors' data. Sample size: a mean over prompts;
    only differences on the same prompts mean something.

    The authors' package does not import under transformers 5; this is their model by the BLIP
    classes of transformers, with the authors' weights file as it is. All its tensors must be used.

    Args:
        model: folder with ImageReward.pt, or a hub id such as THUDM/ImageReward. A tokenizer of
            bert-base-uncased beside it (vocab.txt or tokenizer.json) is used, else that of the hub.
        device: device of the model.

    Raises:
        ValueError: if ``model`` has no such file, or one that does not fit.

    References:
        Xu et al., "ImageReward", NeurIPS 2023, arXiv 2304.05977.
    """

    def __init__(self, model: Path | str, device: str = "cpu"):
        folder = _find_weights(model)
        weights = _read_weights(folder / WEIGHTS)
        try:
            text, vision, self.head = _text_part(weights), _vision_part(weights), _head(weights)
        except (KeyError, IndexError, RuntimeError) as error:
            message = f"{folder / WEIGHTS} is no ImageReward: {one_line(error)}"
            raise ValueError(message) from error
        self.text, self.vision = (
            part.to(device).eval().requires_grad_(False) for part in (text, vision)
        )
        self.head = self.head.to(device).requires_grad_(False)
        self.tokenizer = _load_tokenizer(folder)
        if len(self.tokenizer) > self.text.config.vocab_size:
            raise ValueError(
                f"{folder} has a tokenizer of {len(self.tokenizer)} words for "
                f"{self.text.config.vocab_size} embeddings: give that of {TOKENIZER}"
            )
        self.size = self.vision.config.image_size
        self.device = device
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD)
        )

    @torch.no_grad()
    def score(self, images: Float[Tensor, "n 3 s s"], prompts: Sequence[str]) -> Float[Tensor, "n"]:
        size, scores = [self.vision.config.image_size] * 2, []
        for start in range(0, len(images), _CHUNK):
            rows = images[start : start + _CHUNK].to(self.device).float()
            resized = torch.nn.functional.interpolate(rows, size, mode="bicubic", antialias=True)
            pixels = (resized.clamp(0, 1) - self.mean) / self.std
            patches = self.vision(pixel_values=pixels).last_hidden_state
            tokens = self.tokenizer(
                list(prompts[start : start + _CHUNK]),
                padding="max_length",
                truncation=True,
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            ).to(self.device)
            hidden = self.text(
                input_ids=tokens.input_ids,
                attention_mask=tokens.attention_mask,
                encoder_hidden_states=patches,
                encoder_attention_mask=torch.ones(patches.shape[:2]).to(patches),
                is_decoder=False,  # else attention is causal, and the first token sees no other
            ).last_hidden_state
            scores.append(self.head(hidden[:, 0])[:, 0])
        return ((torch.cat(scores) - SCORE_MEAN) / SCORE_STD).cpu()


def _find_weights(model: Path | str) -> Path:
    """The folder of ImageReward.pt."""
    folder = Path(model).expanduser()
    if not folder.exists() and REPO_ID_PATTERN.fullmatch(str(model)):
        folder = resolve_files(str(model), (WEIGHTS,))
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} holds no {WEIGHTS}: give the folder that has it, or the hub id "
            "THUDM/ImageReward"
        )
    return folder


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file by name, without running any code in it."""
    from transformers.modeling_utils import load_state_dict

    try:
        weights = load_state_dict(path, weights_only=True)
    except Exception as error:  # of whatever reads the archive
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise ValueError(f"{path} is no ImageReward: it must map names to tensors")
    known = (_TEXT, _VISION, _HEAD, *_UNUSED)
    if foreign := [name for name in weights if not name.startswith(known)]:
        raise ValueError(f"{path} is no ImageReward: it has {foreign[0]}")
    return {name: value.float() for name, value in weights.items() if not name.startswith(_UNUSED)}


def _select(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _count_layers(names: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def _text_part(weights: Mapping[str, Tensor]) -> Any:
    """The text encoder, in the sizes of the file."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    own = _select(weights, _TEXT)
    words, width = own["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=own["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        num_hidden_layers=_count_layers(own, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=max(1, width // _HEAD_SIZE),
        intermediate_size=own["encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=own["embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
        is_decoder=True,  # builds the attention to the image
        bos_token_id=None,
        sep_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = BlipTextModel(config, add_pooling_layer=False)
    model.load_state_dict(own)
    return model


def _vision_part(weights: Mapping[str, Tensor]) -> Any:
    """The image encoder, in the sizes of the file."""
    from transformers import BlipVisionConfig, BlipVisionModel

    own = {}
    for name, value in _select(weights, _VISION).items():
        renamed = name
        for pattern, new in _RENAMED:
            renamed = re.sub(pattern, new, renamed)
        own[renamed] = value
    width, _, patch, _ = own["embeddings.patch_embedding.weight"].shape
    patches = own["embeddings.position_embedding"].shape[1] - 1
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=own["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count_layers(own, r"encoder\.layers\.(\d+)\."),
        num_attention_heads=max(1, width // _HEAD_SIZE),
        image_size=patch * round(patches**0.5),
        patch_size=patch,
        layer_norm_eps=1e-6,  # that of the authors; the default of transformers is another
    )
    model = BlipVisionModel(config)
    model.load_state_dict(own)
    return model


def _head(weights: Mapping[str, Tensor]) -> torch.nn.Sequential:
    """The linear layers of the score, which have no nonlinearity between them."""
    own = _select(weights, _HEAD)
    layers = []
    for index in sorted({int(name.split(".")[0]) for name in own}):
        weight, bias = own[f"{index}.weight"], own[f"{index}.bias"]
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    if not layers or layers[-1].out_features != 1:
        raise KeyError(f"{_HEAD} ends in no single number")
    return torch.nn.Sequential(*layers)


def _load_tokenizer(folder: Path) -> Any:
    """The tokenizer of BERT beside the weights, or that of the hub."""
    from transformers import BertTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
        try:
            folder = resolve_files(TOKENIZER, names)
        except ValueError as error:
            raise ValueError(
                f"{folder} has no tokenizer: put vocab.txt of {TOKENIZER} beside {WEIGHTS} "
                f"({error})"
            ) from error
    return BertTokenizer.from_pretrained(folder, local_files_only=True)
