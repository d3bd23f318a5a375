"""LoRA adapters from files of Limbeck, of diffusers or of peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

#: Suffixes of the keys of A and of B.
_DOWN_SUFFIXES = (".lora_A.weight", ".lora.down.weight", ".lora_down.weight")
_UP_SUFFIXES = (".lora_B.weight", ".lora.up.weight", ".lora_up.weight")
_PEFT_PREFIX = "base_model.model."
POSE_FILE = "pose.safetensors"  #: pose embedding of a camera-conditioned critic
_PEFT_FILE = "adapter_model.safetensors"
LORA_FILES = ("pytorch_lora_weights.safetensors", _PEFT_FILE)

#: A ``[rank, in, ...]`` and B ``[out, rank, ...]`` of one layer.
LoRAPair = tuple[Float[Tensor, "r i ..."], Float[Tensor, "o r ..."]]


def read_adapters(path: Path, network_name: str) -> dict[str, LoRAPair]:
    """Read the LoRA of a network.

    Args:
        path: a file, or a folder that holds one of ``LORA_FILES``.
        network_name: ``unet`` or ``transformer``.

    Returns:
        A and B of every adapted layer by name. B includes the file's scale alpha / rank.

    Raises:
        ValueError: if the file cannot be read, has options that are not supported, or holds nothing
            for this network.
    """
    file = _find_file(path)
    try:
        with safe_open(file, "pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            metadata = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable .safetensors file: {error}") from error
    config = {key.removeprefix(f"{network_name}."): value for key, value in metadata.items()}
    config |= _peft_config(file)
    unsupported = [k for k in ("use_dora", "use_rslora", "alpha_pattern") if config.get(k)]
    if unsupported:
        raise ValueError(f"{file} sets {', '.join(unsupported)}, which is not supported")
    first_key = next(iter(tensors), "missing")
    tensors = {_layer_name(key, network_name): tensor for key, tensor in tensors.items()}
    names = sorted(
        key.removesuffix(suffix)
        for key in tensors
        for suffix in _DOWN_SUFFIXES
        if key.endswith(suffix)
    )
    if not names:
        raise ValueError(
            f"{file} holds no LoRA of a {network_name} in a known layout; "
            f"its first key is {first_key}"
        )
    return {name: _read_pair(tensors, name, config, file) for name in names}


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    for name in LORA_FILES:
        if (path / name).is_file():
            return path / name
    raise ValueError(
        f"no LoRA at {path}: give a .safetensors file, or a folder that holds "
        f"{' or '.join(LORA_FILES)}"
    )


def _peft_config(file: Path) -> dict[str, Any]:
    """The configuration that peft writes next to its weights; empty for other files."""
    config = file.parent / "adapter_config.json"
    return json.loads(config.read_text()) if file.name == _PEFT_FILE and config.is_file() else {}


def _read_pair(
    tensors: dict[str, Tensor], name: str, config: dict[str, Any], file: Path
) -> LoRAPair:
    a = next(tensors[name + suffix] for suffix in _DOWN_SUFFIXES if name + suffix in tensors)
    b = next((tensors[name + suffix] for suffix in _UP_SUFFIXES if name + suffix in tensors), None)
    if (
        b is None
        or a.ndim != b.ndim
        or a.ndim not in (2, 4)
        or any(length != 1 for length in b.shape[2:])
    ):
        raise ValueError(
            f"{file}: {name} is neither two matrices A and B nor a convolution A and a matrix B"
        )
    rank = len(a)
    alpha = config.get("lora_alpha", rank)
    if f"{name}.alpha" in tensors:
        alpha = float(tensors[f"{name}.alpha"])
    return a.float(), b.float() * (alpha / rank)


def read_pose(path: Path) -> dict[str, Tensor] | None:
    """Read the pose embedding saved next to a LoRA.

    Args:
        path: the LoRA, a file or a folder.

    Returns:
        Its tensors by name; None if there is none.

    Raises:
        ValueError: if the file cannot be read.
    """
    file = (path if path.is_dir() else path.parent) / POSE_FILE
    if not file.is_file():
        return None
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable .safetensors file: {error}") from error


def _layer_name(key: str, network_name: str) -> str:
    """The key without the prefixes of peft and of the network."""
    return key.removeprefix(_PEFT_PREFIX).removeprefix(f"{network_name}.")
