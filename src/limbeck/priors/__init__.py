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
    from limbeck.priors.pixart import PixArt
    from limbeck.priors.sana import Sana
    from limbeck.priors.sd3 import SD3
    from limbeck.priors.sdxl import SDXL
    from limbeck.priors.stable_diffusion import StableDiffusion

__all__ = [
    "SD3",
    "SDXL",
    "DataSet",
    "DeepFloydIF",
    "Flux",
    "GaussianMixture",
    "PixArt",
    "Sana",
    "StableDiffusion",
]

_MODULES = {
    "DataSet": "exact",
    "DeepFloydIF": "deepfloyd_if",
    "Flux": "flux",
    "GaussianMixture": "exact",
    "PixArt": "pixart",
    "SD3": "sd3",
    "SDXL": "sdxl",
    "Sana": "sana",
    "StableDiffusion": "stable_diffusion",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
