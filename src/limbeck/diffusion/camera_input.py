"""Cameras as numbers for a multi-view network, and the layers of a U-Net that take them.

References:
    MVDream (Shi et al. 2023, arXiv 2308.16512).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

POSE_DIM = 16  #: numbers of a pose: the camera-to-world matrix, row by row
TRAINING_FILE = "training.json"  #: of a pipeline folder: how its U-Net was trained
#: Options of a U-Net of diffusers whose class embedding is that of a camera.
CAMERA_OPTIONS = {
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": POSE_DIM,
}


def camera_labels(pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 16"]:
    """Return cameras as the network takes them: direction and rotation, not the distance.

    MVDream's world has z up and the front of objects at +x; ours has y up and the front at +z. So
    (x, y, z) becomes (z, x, y). Camera axes are the same.

    Args:
        pose: camera-to-world matrices of our world.

    Returns:
        Camera-to-world matrices of MVDream's world with the camera at distance 1, row by row.
    """
    turned = pose[:, [2, 0, 1, 3]]
    position = torch.nn.functional.normalize(turned[:, :3, 3], dim=1)
    position = torch.nn.functional.pad(position, (0, 1), value=1.0)
    return torch.cat([turned[:, :, :3], position[:, :, None]], 2).flatten(1)
