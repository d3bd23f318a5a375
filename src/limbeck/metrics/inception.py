"""Features of the Inception v3 that FID and KID are defined with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.system.files import one_line

FILE = "inception-2015-12-05.pt"


class InceptionFeatures:
    """The 2048 features before the classifier, from the TorchScript file of the original weights.

    Images are resized with a bicubic antialiased filter, in floating point, as in clean-fid; the
    resize of the first implementations aliases and gives other distances. The file is a program:
    load only one that you trust.

    Args:
        path: inception-2015-12-05.pt of NVIDIA.
        device: device of the network.

    Raises:
        ValueError: if ``path`` is no such file.

    References:
        Heusel et al. 2017, arXiv 1706.08500; the resize: Parmar et al., "On Aliased Resizing and
        Surprising Subtleties in GAN Evaluation", CVPR 2022, arXiv 2104.11222.
    """

    size = 299

    def __init__(self, path: Path, device: str = "cpu"):
        if not path.is_file():
            raise ValueError(f"--inception {path}: there is no such file; give {FILE}")
        try:
            with warnings.catch_warnings():  # that TorchScript is deprecated
                warnings.simplefilter("ignore")
                network = torch.jit.load(str(path), map_location=device).eval()
            self.layers: Any = network.layers
        except Exception as error:  # of whatever reads the archive
            raise ValueError(f"{path} is no {FILE}: {one_line(error)}") from error
        self.name, self.device = f"Inception ({path.name})", device

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "n 3 299 299"]) -> Float[Tensor, "n d"]:
        """Return the features of images in [0, 1], on the CPU."""
        pixels = (images.to(self.device).float() * 255 - 128) / 128
        return self.layers(pixels).flatten(1).float().cpu()
