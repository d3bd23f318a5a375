"""Similarity of images and texts by CLIP (Radford et al. 2021, arXiv 2103.00020)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.priors.hub import REPO_ID_PATTERN, resolve_model

#: mean and standard deviation of the channels in CLIP's own preprocessing
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_CHUNK = 32


def find_clip(model: Path | str) -> Path:
    """Return the folder of a CLIP model; a hub id is looked up in the cache or downloaded.

    Args:
        model: a folder or a hub id such as openai/clip-vit-base-patch32.

    Raises:
        ValueError: if it is neither, or cannot be downloaded.
    """
    folder = Path(model).expanduser()
    if folder.exists() or not REPO_ID_PATTERN.fullmatch(str(model)):
        return folder
    return resolve_model(str(model), index="config.json")


class CLIPSimilarity:
    """A frozen CLIPModel with its tokenizer.

    Args:
        model: what ``save_pretrained`` of ``CLIPModel`` and of its tokenizer wrote, or a hub id.
        device: device of the model.

    Raises:
        ValueError: if ``model`` is no CLIP model, or cannot be downloaded.
    """

    def __init__(self, model: Path | str, device: str = "cpu"):
        folder = find_clip(model)
        config = folder / "config.json"
        if (
            not config.is_file()
            or json.loads(config.read_text(encoding="utf-8")).get("model_type") != "clip"
        ):
            raise ValueError(
                f"{folder} holds no CLIP model: give a folder with config.json, weights and "
                "tokenizer, such as a download from the hub"
            )
        from transformers import AutoTokenizer, CLIPModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of the few tensors of a file
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model: Any = CLIPModel.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,  # else that of the file, whose rounding is seen in scores
            )
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{folder}: CLIP could not be read: {reason}") from error
        self.model.to(device).eval().requires_grad_(False)
        self.device, self.size = device, self.model.config.vision_config.image_size
        path = folder / "preprocessor_config.json"
        preprocessor = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.mean, self.std = (
            torch.tensor(preprocessor.get(key, default), device=device)[:, None, None]
            for key, default in (("image_mean", MEAN), ("image_std", STD))
        )

    def similarity(
        self, images: Float[Tensor, "n 3 h w"], texts: Sequence[str]
    ) -> Float[Tensor, "n t"]:
        """Return the cosine similarity of every image and every text.

        Args:
            images: square images in [0, 1], resized bicubically to the model's size.
            texts: the texts.
        """
        return self.embed_images(images) @ self.embed_texts(texts).T

    def paired_similarity(
        self, images: Float[Tensor, "n 3 h w"], texts: Sequence[str]
    ) -> Float[Tensor, "n"]:
        """Return the cosine similarity of each image and its own text.

        Args:
            images: square images in [0, 1], resized bicubically to the model's size.
            texts: one per image; each different one is embedded once.
        """
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        embeds = self.embed_texts(list(rows))[[rows[text] for text in texts]]
        return (self.embed_images(images) * embeds).sum(1)

    @property
    def logit_scale(self) -> float:
        """Factor of cosines in the softmax that the model was trained with."""
        return float(self.model.logit_scale.exp())

    @torch.no_grad()
    def embed_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return the embedding of each image, of length 1, on the CPU.

        Args:
            images: square images in [0, 1], resized bicubically to the model's size.
        """
        embeds, size = [], (self.size, self.size)
        for chunk in images.split(_CHUNK):
            resized = torch.nn.functional.interpolate(
                chunk.to(self.device).float(), size, mode="bicubic", antialias=True
            )
            pixels = (resized.clamp(0, 1) - self.mean) / self.std
            embeds.append(self._call(pixels, [""]).image_embeds)
        return torch.cat(embeds).float().cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "t d"]:
        """Return the embedding of each text, of length 1, on the CPU; long texts are cut."""
        blank = torch.zeros(1, 3, self.size, self.size, device=self.device)
        starts = range(0, len(texts), _CHUNK)
        embeds = [self._call(blank, texts[i : i + _CHUNK]).text_embeds for i in starts]
        return torch.cat(embeds).float().cpu()

    def _call(self, pixels: Float[Tensor, "n 3 s s"], texts: Sequence[str]) -> Any:
        # a tokenizer without a length of its own would cut nothing
        positions = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=min(positions, self.tokenizer.model_max_length),
            return_tensors="pt",
        ).to(self.device)
        return self.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels
        )
