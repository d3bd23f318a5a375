"""CLIP (Radford et al. 2021, arXiv 2103.00020) as a judge of pictures and texts, from a folder of weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MEAN, DEVIATION = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)  #: of CLIP's own preprocessing
CHUNK = 32


class Clip:
    """A CLIPModel with its tokenizer, frozen."""

    def __init__(self, folder: Path, device: str = "cpu"):
        """ValueError where ``folder`` is not one that ``CLIPModel.save_pretrained`` and its tokenizer's wrote."""
        told = folder / "config.json"
        if not told.is_file() or json.loads(told.read_text()).get("model_type") != "clip":
            raise ValueError(
                f"{folder} holds no CLIP model: a folder with config.json, weights and tokenizer is wanted, as of a download"
            )
        from transformers import AutoTokenizer, CLIPModel

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
        except OSError as error:
            raise ValueError(
                f"{folder}: CLIP could not be read: {str(error).splitlines()[0]}"
            ) from error
        self.model.to(device).eval().requires_grad_(False)
        self.device, self.size = device, self.model.config.vision_config.image_size
        how = folder / "preprocessor_config.json"
        own = json.loads(how.read_text()) if how.is_file() else {}
        self.mean, self.deviation = (
            torch.tensor(own.get(key, usual), device=device)[:, None, None]
            for key, usual in (("image_mean", MEAN), ("image_std", DEVIATION))
        )

    @torch.no_grad()
    def scores(
        self, images: Float[Tensor, "n 3 h w"], texts: Sequence[str]
    ) -> Float[Tensor, "n t"]:
        """Cosine of every picture, square and in [0, 1], and every text. Pictures are scaled bicubically to the model's size."""
        seen, heard = [], []
        for part in images.split(CHUNK):
            x = torch.nn.functional.interpolate(
                part.to(self.device).float(), (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 1)
            seen.append(self._asked((x - self.mean) / self.deviation, texts[:1]).image_embeds)
        blank = torch.zeros(1, 3, self.size, self.size, device=self.device)
        for first in range(0, len(texts), CHUNK):
            heard.append(self._asked(blank, texts[first : first + CHUNK]).text_embeds)
        return (torch.cat(seen).float() @ torch.cat(heard).float().T).cpu()

    def _asked(self, pixels: Float[Tensor, "n 3 s s"], texts: Sequence[str]) -> Any:
        words = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(
            self.device
        )
        return self.model(
            input_ids=words.input_ids, attention_mask=words.attention_mask, pixel_values=pixels
        )
