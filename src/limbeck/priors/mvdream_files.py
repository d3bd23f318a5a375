"""The layouts in which weights of MVDream are published, read as a U-Net of diffusers.

MVDream is the U-Net of Stable Diffusion 1 or 2 and two linear layers for the camera, which are a
class embedding of diffusers. Published are one pickle with the names of the original code, a folder
whose U-Net has the options and names of the original code, and a folder whose U-Net has those of
diffusers, with the camera layers as a component of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import Tensor

from limbeck.diffusion.camera_input import CAMERA_OPTIONS, TRAINING_FILE
from limbeck.priors.checkpoint_files import (
    CheckpointFiles,
    check_none_missing,
    loading,
    positive_int,
    silence_library_logs,
    some,
)
from limbeck.priors.weight_files import CAMERA_WEIGHT, preferred_weights, read_weights

PIPELINE_NAME = "MVDreamPipeline"  #: ``_class_name`` of both folder layouts
NETWORK_PREFIX = "model.diffusion_model."  #: prefix of the U-Net in the original names
_CAMERA_PART = "camera_proj"
#: Height and width of the latents of both published models, which their pickles do not state.
_LATENT_SIZE = 32


def is_multi_view(files: CheckpointFiles) -> bool:
    """Return whether files are those of a model like MVDream.

    Besides the published layouts this is a pipeline of Stable Diffusion whose U-Net has the class
    embedding of a camera.

    Args:
        files: a pipeline folder, or one file and a folder of configurations.
    """
    if files.single_file is not None:
        return CAMERA_WEIGHT in files.weight_names()
    name = str(files.read_config("", "model_index.json").get("_class_name"))
    if name == PIPELINE_NAME:
        return True
    if name != "StableDiffusionPipeline" or not (files.folder / "unet" / "config.json").is_file():
        return False
    config = files.read_config("unet")
    return all(config.get(key) == value for key, value in CAMERA_OPTIONS.items())


def trained_on_known_views(files: CheckpointFiles) -> bool:
    """Whether the model was trained on groups of which one view is given as a clean image.

    Only the folders of ``limbeck train-world --multi-view`` say so.

    Args:
        files: the files of the model.
    """
    if not (files.folder / TRAINING_FILE).is_file():
        return False
    share = files.read_config("", TRAINING_FILE).get("reference_views", 0)
    return isinstance(share, int | float) and share > 0


def load_multi_view_unet(files: CheckpointFiles, dtype: torch.dtype) -> UNet2DConditionModel:
    """Load the U-Net as a frozen module, with the camera layers as its class embedding.

    Args:
        files: where it is read from, in any of the layouts.
        dtype: precision of the weights.

    Raises:
        ValueError: if its files cannot be read, or tensors are missing or left over.
    """
    place = str(files.single_file or files.folder / "unet")
    with silence_library_logs(), loading(place, passed_on=(ValueError,)):
        config, weights, _ = read_unet(files)
        return build_multi_view_unet(config, weights, dtype, place)


def build_multi_view_unet(
    config: dict[str, Any], weights: dict[str, Tensor], dtype: torch.dtype, place: str
) -> UNet2DConditionModel:
    """Build the U-Net with camera layers as a frozen module.

    Args:
        config: its options.
        weights: its weights, with the names of diffusers.
        dtype: precision of the weights.
        place: where they are from, for messages.

    Raises:
        ValueError: if tensors are missing or left over.
    """
    with torch.device("meta"):
        network: Any = UNet2DConditionModel.from_config(config | CAMERA_OPTIONS)
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    report = network.load_state_dict(weights, strict=False, assign=True)
    check_none_missing(report.missing_keys, place)
    if report.unexpected_keys:
        raise ValueError(
            f"{place} does not fit its configuration: {some(sorted(report.unexpected_keys))} would "
            "be left out"
        )
    frozen: UNet2DConditionModel = network.eval().requires_grad_(False)
    return frozen


def read_unet(
    files: CheckpointFiles,
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Read options and weights of the U-Net.

    Args:
        files: where they are read from, in any of the layouts.

    Returns:
        Options and weights with the names of diffusers, and all weights with the names of the
        original code, if that is how they are stored.

    Raises:
        ValueError: if they cannot be read.
    """
    config = files.read_config("unet")
    if files.single_file is not None:
        names = {
            k: v for k, v in read_weights(files.single_file).items() if k.startswith(NETWORK_PREFIX)
        }
        if "model_channels" in config:
            config = _from_original_options(config, names, files.place("unet"))
        config = config | {"sample_size": _LATENT_SIZE}
        return config, _from_original_names(names, config, files.name), names
    weights = _read_part(files, "unet")
    if "model_channels" in config:
        names = {f"{NETWORK_PREFIX}{name}": weight for name, weight in weights.items()}
        config = _from_original_options(config, names, files.place("unet"))
        return config, _from_original_names(names, config, files.name), names
    if (files.folder / _CAMERA_PART).is_dir():
        camera = _read_part(files, _CAMERA_PART)
        weights |= {f"class_embedding.{name}": weight for name, weight in camera.items()}
    return config, weights, {}


def _read_part(files: CheckpointFiles, part: str) -> dict[str, Tensor]:
    folder = files.folder / part
    weights = preferred_weights(path.name for path in folder.iterdir())
    if weights is None:
        raise ValueError(f"{folder} has no weights, such as diffusion_pytorch_model.safetensors")
    tensors: dict[str, Tensor] = {}
    for name in weights.files:
        tensors |= read_weights(folder / name)
    return tensors


def _from_original_names(
    names: dict[str, Tensor], config: dict[str, Any], place: str
) -> dict[str, Tensor]:
    """Weights with the names of diffusers.

    Its converter knows a class embedding by the name that the original code has for it, which the
    camera layers are given first.
    """
    camera, label = f"{NETWORK_PREFIX}camera_embed.", f"{NETWORK_PREFIX}label_emb.0."
    layers = [f"{camera}{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    check_none_missing([layer for layer in layers if layer not in names], place)
    renamed = {name.replace(camera, label): weight for name, weight in names.items()}
    options = {"addition_embed_type": None} | config | CAMERA_OPTIONS
    converted: dict[str, Tensor] = convert_ldm_unet_checkpoint(renamed, options)
    return converted


def _from_original_options(
    original: dict[str, Any], names: dict[str, Tensor], place: str
) -> dict[str, Any]:
    """Options of diffusers for the options of the original code."""

    def read(key: str) -> int:
        return positive_int(original, key, place)

    channels = [read("model_channels") * int(factor) for factor in original["channel_mult"]]
    attends = [2**i in original["attention_resolutions"] for i in range(len(channels))]
    head_width = original.get("num_head_channels", -1)
    heads: Any = [width // head_width for width in channels] if head_width > 0 else None
    projections = (w for k, w in names.items() if "_block" in k and k.endswith(".proj_in.weight"))
    linear = next(projections).ndim == 2
    return {
        "sample_size": read("image_size"),
        "in_channels": read("in_channels"),
        "out_channels": read("out_channels"),
        "block_out_channels": channels,
        "layers_per_block": read("num_res_blocks"),
        "down_block_types": [f"{'CrossAttn' * attend}DownBlock2D" for attend in attends],
        "up_block_types": [f"{'CrossAttn' * attend}UpBlock2D" for attend in reversed(attends)],
        # diffusers has the number of heads under this name
        "attention_head_dim": heads or read("num_heads"),
        "transformer_layers_per_block": original.get("transformer_depth", 1),
        "cross_attention_dim": read("context_dim"),
        "use_linear_projection": linear,
    }
