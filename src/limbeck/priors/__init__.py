"""Priors: frozen diffusion models, exact ones in closed form and pretrained ones of diffusers.

Classes are imported on first use: importing this package does not import diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.priors.deepfloyd_if import DeepFloydIF
    from limbeck.priors.exact import DataSet, GaussianMixture
    from limbeck.priors.flux import Flux
    from limbeck.priors.flux2 import Flux2, Flux2Klein
    from limbeck.priors.image_dream import ImageDream
    from limbeck.priors.instruct_pix2pix import InstructPix2Pix
    from limbeck.priors.lumina2 import Lumina2
    from limbeck.priors.mvdream import MVDream
    from limbeck.priors.pixart import PixArt
    from limbeck.priors.qwen_image import QwenImage
    from limbeck.priors.sana import Sana
    from limbeck.priors.sd3 import SD3
    from limbeck.priors.sdxl import SDXL
    from limbeck.priors.stable_diffusion import StableDiffusion
    from limbeck.priors.zero123 import Zero123

__all__ = [
    "SD3",
    "SDXL",
    "DataSet",
    "DeepFloydIF",
    "Flux",
    "Flux2",
    "Flux2Klein",
    "GaussianMixture",
    "ImageDream",
    "InstructPix2Pix",
    "Lumina2",
    "MVDream",
    "PixArt",
    "QwenImage",
    "Sana",
    "StableDiffusion",
    "Zero123",
]

_MODULES = {
    "DataSet": "exact",
    "DeepFloydIF": "deepfloyd_if",
    "Flux": "flux",
    "Flux2": "flux2",
    "Flux2Klein": "flux2",
    "GaussianMixture": "exact",
    "ImageDream": "image_dream",
    "InstructPix2Pix": "instruct_pix2pix",
    "Lumina2": "lumina2",
    "MVDream": "mvdream",
    "PixArt": "pixart",
    "QwenImage": "qwen_image",
    "SD3": "sd3",
    "SDXL": "sdxl",
    "Sana": "sana",
    "StableDiffusion": "stable_diffusion",
    "Zero123": "zero123",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
