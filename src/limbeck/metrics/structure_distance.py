"""Structure distance: difference of the self-similarities of two images in a DINO transformer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.priors.hub import REPO_ID_PATTERN, resolve_model

# of ImageNet, as in the training of DINO
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_KEY_LAYERS = ("k_proj", "key")  #: names of the layer of the keys in transformers 5 and 4


class DinoKeys:
    """A frozen vision transformer that gives the keys of its last attention layer.

    Args:
        model: folder with what ``save_pretrained`` of a ``ViTModel`` wrote, or a hub id, such as
            facebook/dino-vitb8, the model of the papers.
        device: device of the model.

    Raises:
        ValueError: if ``model`` is no vision transformer, or cannot be downloaded.
    """

    def __init__(self, model: Path | str, device: str = "cpu"):
        folder = Path(model).expanduser()
        if not folder.exists() and REPO_ID_PATTERN.fullmatch(str(model)):
            folder = resolve_model(str(model), index="config.json")
        config = folder / "config.json"
        if (
            not config.is_file()
            or json.loads(config.read_text(encoding="utf-8")).get("model_type") != "vit"
        ):
            raise ValueError(
                f"{folder} holds no vision transformer of DINO: give a folder with config.json and "
                "weights of a ViTModel, or a hub id such as facebook/dino-vitb8"
            )
        from transformers import ViTModel

        try:
            self.model: Any = ViTModel.from_pretrained(
                folder, local_files_only=True, add_pooling_layer=False, dtype=torch.float32
            )
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{folder}: DINO could not be read: {reason}") from error
        self.model.to(device).eval().requires_grad_(False)
        self.device, self.size = device, self.model.config.image_size
        self.mean, self.std = (
            torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _STD)
        )
        layers = [
            layer
            for name, layer in self.model.named_modules()
            if name.rpartition(".")[2] in _KEY_LAYERS
        ]
        layers[-1].register_forward_hook(self._keep_keys)
        self._keys: Tensor | None = None

    def _keep_keys(self, layer: Any, inputs: Any, keys: Tensor) -> None:
        self._keys = keys

    @torch.no_grad()
    def self_similarity(
        self, images: Float[Tensor, "n 3 h w"], as_published: bool = False
    ) -> Float[Tensor, "n t t"]:
        """Cosine similarity of the keys of every two tokens, of all heads together, on the CPU.

        Args:
            images: square images in [0, 1], resized bilinearly to the model's size.
            as_published: as the code of PIE-Bench, see ``structure_distance``.
        """
        size, white = (self.size, self.size), 255.0 if as_published else 1.0
        resized = torch.nn.functional.interpolate(
            images.to(self.device).float(), size, mode="bilinear", antialias=not as_published
        )
        self.model(pixel_values=(white * resized - self.mean) / self.std)
        assert self._keys is not None  # the hook has run
        keys = torch.nn.functional.normalize(self._keys.double(), dim=-1)
        self._keys = None
        return (keys @ keys.mT).cpu()


def structure_distance(
    images: Float[Tensor, "n 3 h w"],
    sources: Float[Tensor, "n 3 h w"],
    dino: DinoKeys,
    as_published: bool = False,
) -> Float[Tensor, "n"]:
    """Mean square difference of the self-similarity of keys of two images.

    Range 0 (same structure) to 4; edits of PIE-Bench have .01 to .07, printed times 1000. It sees
    layout and shape, and little of color. Sample size: a value per pair of images; a mean of any
    number.

    Args:
        images: edited images, square, in [0, 1].
        sources: what was edited.
        dino: the transformer; values of two models are not comparable.
        as_published: as the code of PIE-Bench, which feeds values from 0 to 255 to a normalization
            made for values from 0 to 1, and does not smooth images before it makes them smaller (as
            torchvision 0.13, which it pins, resizes tensors). For comparison with its tables.

    References:
        Tumanyan et al., "Splicing ViT features for semantic appearance transfer", 2022,
        arXiv 2201.00424; Ju et al., "PnP Inversion", 2023, arXiv 2310.01506.
    """
    own, other = (dino.self_similarity(some, as_published) for some in (images, sources))
    return (own - other).square().mean((1, 2))
