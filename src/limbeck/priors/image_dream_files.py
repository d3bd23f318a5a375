"""The layouts in which weights of ImageDream are published, read as a U-Net of diffusers.

They are those of MVDream with two additions: a resampler, which makes tokens of the features of an
image, and keys and values of the cross-attention for them. Both are an IP-Adapter of diffusers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.priors.checkpoint_files import (
    CheckpointFiles,
    check_none_missing,
    loading,
    meta_tensors,
    silence_library_logs,
)
from limbeck.priors.mvdream_files import NETWORK_PREFIX, build_multi_view_unet, read_unet

_RESAMPLER = "image_embed."
_KINDS = ("to_k_ip.weight", "to_v_ip.weight")
#: Ends of the names of the published pickles, and whether their network sees the image as a view.
_PICKLES = {"ipmv": True, "ipmv-local": False}


def takes_image_prompts(files: CheckpointFiles) -> bool:
    """Whether the files of a model like MVDream are those of ImageDream.

    Args:
        files: a pipeline folder, or one file and a folder of configurations.
    """
    if files.single_file is not None:
        return any(name.endswith(_KINDS) for name in files.weight_names())
    return bool(files.read_config("unet").get("ip_dim"))


def has_image_view(files: CheckpointFiles) -> bool:
    """Whether the network sees the latents of the image as a further view of each group.

    The folder that is published does; of the two pickles only the names say it.

    Args:
        files: the files of the model.

    Raises:
        ValueError: if it is a pickle of another name.
    """
    if files.single_file is None:
        return True
    for end, found in _PICKLES.items():
        if files.single_file.stem.endswith(end):
            return found
    raise ValueError(
        f"{files.single_file} does not say whether its network sees the image as a view: name it "
        "as it was published, ...-ipmv.pt if it does and ...-ipmv-local.pt if not"
    )


def load_image_dream_unet(files: CheckpointFiles, dtype: torch.dtype) -> Any:
    """Load the U-Net as a frozen module, with camera layers and image prompt.

    Args:
        files: where it is read from, in any of the layouts.
        dtype: precision of the weights.

    Raises:
        ValueError: if its files cannot be read, or tensors are missing or left over.
    """
    place = str(files.single_file or files.folder / "unet")
    with silence_library_logs(), loading(place, passed_on=(ValueError,)):
        config, weights, others = read_unet(files)
        layers = {name: weights.pop(name) for name in list(weights) if name.endswith(_KINDS)}
        network = build_multi_view_unet(config, weights, dtype, place)
        prefix = f"{NETWORK_PREFIX}{_RESAMPLER}"
        resampler = {
            name.removeprefix(prefix): weight.to(dtype)
            for name, weight in others.items()
            if name.startswith(prefix)
        }
        check_none_missing([] if resampler else [f"{_RESAMPLER}latents"], place)
        parts = {"image_proj": resampler, "ip_adapter": _by_number(network, layers, dtype, place)}
        network._load_ip_adapter_weights([parts])
    check_none_missing(meta_tensors(network), place)
    return network.eval().requires_grad_(False)


def _by_number(
    network: Any, layers: dict[str, Tensor], dtype: torch.dtype, place: str
) -> dict[str, Tensor]:
    """The keys and values of the layers by the numbers that an IP-Adapter gives them.

    It counts all attention layers in the order of the network; the second of each block is the
    cross-attention.
    """
    names = [name for name in network.attn_processors if not name.endswith("attn1.processor")]
    wanted = {
        f"{2 * i + 1}.{kind}": f"{name.removesuffix('processor')}{kind}"
        for i, name in enumerate(names)
        for kind in _KINDS
    }
    check_none_missing([name for name in wanted.values() if name not in layers], place)
    return {number: layers[name].to(dtype) for number, name in wanted.items()}
