"""The layouts in which weights of Zero123 are published, and which models take which pose.

Published are folders of two pipelines that diffusers does not have. Both hold the U-Net, the
autoencoder and the image encoder of CLIP in the names of diffusers and transformers, and one linear
layer, under different names.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from limbeck.priors.catalog import find_model
from limbeck.priors.checkpoint_files import CheckpointFiles, check_none_missing, loading
from limbeck.priors.hub import REPO_ID_PATTERN
from limbeck.priors.weight_files import preferred_weights, read_weights

#: Folder of the linear layer and the prefix of its weights, by ``_class_name``.
_PROJECTIONS = {
    "Zero123Pipeline": ("clip_camera_projection", "proj."),
    "Zero1to3StableDiffusionPipeline": ("cc_projection", "projection."),
}

PoseInput = Literal["distance", "polar-angle"]  #: the fourth number of the pose


def pose_input(model: str, chosen: str) -> PoseInput:
    """Return the fourth number of the pose that a model takes.

    Args:
        model: name of the model.
        chosen: the option; ``auto`` is looked up by the hub id.

    Raises:
        ValueError: if it is not chosen and the model is not a known one.
    """
    if chosen == "distance" or chosen == "polar-angle":
        return chosen  # type: ignore[return-value]
    match = REPO_ID_PATTERN.fullmatch(model)
    known = find_model(match["repo"]) if match is not None else None
    if known is not None and known.family in ("zero123", "stable-zero123"):
        return "distance" if known.family == "zero123" else "polar-angle"
    raise ValueError(
        f"the files of {model} do not say which pose the model takes: give --model.pose-input "
        "distance for Zero123 and Zero123-XL, polar-angle for Stable-Zero123"
    )


def load_projection(files: CheckpointFiles, width: int, dtype: torch.dtype) -> nn.Linear:
    """Load the layer that makes a token of the image embedding and the pose.

    Args:
        files: the pipeline folder.
        width: width of a token of the U-Net.
        dtype: precision of the weights.

    Raises:
        ValueError: if it is missing or damaged, or makes no such token.
    """
    name = str(files.read_config("", "model_index.json").get("_class_name"))
    part, prefix = _PROJECTIONS[name]
    folder = files.folder / part
    found = preferred_weights(path.name for path in folder.iterdir()) if folder.is_dir() else None
    if found is None:
        raise ValueError(f"{files.name} lacks the weights of {part}")
    place = str(folder / found.files[0])
    tensors = read_weights(folder / found.files[0])
    names = [f"{prefix}weight", f"{prefix}bias"]
    check_none_missing([name for name in names if name not in tensors], place)
    weight, bias = (tensors[name] for name in names)
    if weight.ndim != 2 or len(weight) != width or weight.shape[1] <= 4 or bias.shape != (width,):
        raise ValueError(
            f"{place} has weights of {list(weight.shape)} and {list(bias.shape)}; the unet takes "
            f"tokens of {width} numbers"
        )
    with loading(place), torch.device("meta"):
        layer = nn.Linear(weight.shape[1], width)
    layer.load_state_dict({"weight": weight.to(dtype), "bias": bias.to(dtype)}, assign=True)
    return layer.requires_grad_(False)
