"""IP-Adapter: cross-attention of a U-Net to an image prompt, beside that to the text.

References:
    Ye et al. 2023, arXiv 2308.06721 (IP-Adapter).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prompts import prompt_parts
from limbeck.priors.checkpoint_files import (
    check_none_missing,
    load_frozen_module,
    loading,
    meta_tensors,
    silence_library_logs,
)
from limbeck.priors.hub import resolve_files
from limbeck.priors.weight_files import read_weights, weight_names
from limbeck.system.image_files import read_whole_image

_PREFIXES = ("image_proj.", "ip_adapter.")
#: A file or folder in a repository of the hub.
_IN_REPOSITORY = re.compile(
    r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?)/(?P<path>[\w./-]*[\w-][\w.-]*)"
)
_ENCODER_FILES = ("config.json", "model.safetensors")


def resolve_ip_adapter(model: Model) -> Model:
    """Return the options with the files of their IP-Adapter, which are downloaded if needed.

    Args:
        model: options with an IP-Adapter.

    Raises:
        ValueError: if there is none, or its image encoder is missing.
    """
    adapter = _resolve(model.ip_adapter, "ip_adapter", ".safetensors", with_encoder=True)
    if adapter.suffix != ".safetensors" or not adapter.is_file():
        raise ValueError(
            f"ip_adapter {model.ip_adapter}: give its .safetensors file, or owner/name/FILE of the "
            "hub; others are not read, because unpickling runs code"
        )
    names = weight_names(adapter)
    if any(not any(name.startswith(prefix) for name in names) for prefix in _PREFIXES):
        raise ValueError(
            f"ip_adapter {model.ip_adapter}: it has no tensors image_proj and ip_adapter, so it is "
            "no IP-Adapter"
        )
    encoder = adapter.parent / "image_encoder"
    if model.ip_encoder:
        encoder = _resolve(model.ip_encoder, "ip_encoder", "", with_encoder=False)
    if not (encoder / "config.json").is_file():
        raise ValueError(
            f"ip_adapter {model.ip_adapter}: there is no image encoder in {encoder}: give its "
            "folder with --model.ip-encoder"
        )
    return replace(model, ip_adapter=str(adapter), ip_encoder=str(encoder))


def _resolve(name: str, option: str, suffix: str, with_encoder: bool) -> Path:
    """The path of a file or folder, or of one in a repository of the hub."""
    path = Path(name).expanduser()
    match = _IN_REPOSITORY.fullmatch(name)
    if path.exists() or (match and not match["path"].endswith(suffix)):
        return path
    if match is None:
        raise ValueError(f"no {option} {name!r}: give a path, or owner/name/PATH of the hub")
    within = Path(match["path"])
    encoder = within.parent / "image_encoder" if with_encoder else within
    files = [str(encoder / file) for file in _ENCODER_FILES]
    return resolve_files(match["repo"], [str(within), *files] if with_encoder else files) / within


class ImagePrompt:
    """The image that the rows of a prompt are shown through an IP-Adapter.

    Its layers become part of the U-Net. The image is encoded once, and the encoder freed again.

    Args:
        model: options with the paths of the adapter and of its image encoder.
        unet: the U-Net, changed in place.
        dtype: precision of the weights.
        device: their device.

    Raises:
        ValueError: if the adapter is that of another network, or its encoder of another adapter.
    """

    def __init__(self, model: Model, unet: Any, dtype: torch.dtype, device: str):
        self._add_layers(model, unet)
        projection = unet.encoder_hid_proj.image_projection_layers[0]
        name = type(projection).__name__
        if "FaceID" in name:
            raise ValueError(
                f"ip_adapter {model.ip_adapter}: it takes features of faces (FaceID), not of images"
            )
        image, nothing = _encode_image(model, name != "ImageProjection", dtype, device)
        try:
            with torch.no_grad():
                projection(image)
        except RuntimeError as error:
            raise ValueError(
                f"ip_encoder {model.ip_encoder}: it gives {image.shape[-1]} numbers, which "
                f"{model.ip_adapter} does not take: give the encoder that it was trained with"
            ) from error
        self._image, self._nothing = image[:, None], nothing[:, None]

    @staticmethod
    def _add_layers(model: Model, unet: Any) -> None:
        """Add the layers of the adapter to the U-Net, frozen."""
        what = f"ip_adapter {model.ip_adapter}"
        weights = read_weights(Path(model.ip_adapter))
        parts = {
            prefix.rstrip("."): {
                name.removeprefix(prefix): value
                for name, value in weights.items()
                if name.startswith(prefix)
            }
            for prefix in _PREFIXES
        }
        count = sum(not name.endswith("attn1.processor") for name in unet.attn_processors)
        keys = [
            value for name, value in parts["ip_adapter"].items() if name.endswith("to_k_ip.weight")
        ]
        widths = {value.shape[-1] for value in keys}
        if len(keys) != count or widths != {unet.config.cross_attention_dim}:
            raise ValueError(
                f"{what}: it has {len(keys)} layers of {sorted(widths)} numbers per token, the "
                f"U-Net of the model {count} of {unet.config.cross_attention_dim}: give an adapter "
                "that was trained for this model"
            )
        with silence_library_logs(), loading(what):
            unet._load_ip_adapter_weights([parts])
        check_none_missing(meta_tensors(unet), model.ip_adapter)
        unet.eval().requires_grad_(False)
        for processor in unet.attn_processors.values():
            if isinstance(processor, IPAdapterAttnProcessor2_0):
                processor.scale = [model.ip_scale]

    def embeddings(self, prompts: Sequence[str]) -> Float[Tensor, "b 1 ..."]:
        """Return what the U-Net is shown beside each prompt.

        It is the image for a prompt, and what the adapter was trained on for no image beside the
        empty prompt and beside texts of a method's own.

        Args:
            prompts: the prompts.
        """
        shown = [bool(prompt_parts(prompt)[0]) for prompt in prompts]
        return torch.cat([self._image if own else self._nothing for own in shown])


def _encode_image(
    model: Model, hidden: bool, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    """Encode the image of the options.

    Args:
        model: the options.
        hidden: whether the adapter takes the features of all patches, before the last layer.
        dtype: precision of the encoder.
        device: its device.

    Returns:
        Features of the image, and those that stand for no image.
    """
    with silence_library_logs():  # it speaks of torchvision, which is not needed
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        assert model.ip_image is not None
        pixels = read_whole_image(model.ip_image) * 255
        picture = Image.fromarray(pixels.round().byte().permute(1, 2, 0).numpy())
        folder = Path(model.ip_encoder)
        encoder: Any = load_frozen_module(CLIPVisionModelWithProjection, folder, dtype).to(device)
        size = encoder.config.image_size
        processor = CLIPImageProcessor(size=size, crop_size=size)
        inputs = processor(picture, return_tensors="pt").pixel_values.to(device, dtype)
    with torch.no_grad(), loading(f"ip_encoder {folder}"):
        if not hidden:
            features = encoder(inputs).image_embeds
            return features, torch.zeros_like(features)
        outputs = [
            encoder(x, output_hidden_states=True).hidden_states[-2]
            for x in (inputs, torch.zeros_like(inputs))
        ]
        return outputs[0], outputs[1]
