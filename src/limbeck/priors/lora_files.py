"""Low-rank adapters from a file: what this package, diffusers' ``save_lora_weights`` or peft's ``save_pretrained`` wrote."""

from __future__ import annotations

import json
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

#: What files call A and B, and what stands before the name of a layer.
_DOWN_SUFFIXES, _UP_SUFFIXES = (
    (".lora_A.weight", ".lora.down.weight", ".lora_down.weight"),
    (".lora_B.weight", ".lora.up.weight", ".lora_up.weight"),
)
_KEY_PREFIXES = ("base_model.model.",)
POSE_FILE = "pose.safetensors"  #: what the camera says, beside the adapters of a critic that is told it
LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")

LoRAPair = tuple[Float[Tensor, "r i ..."], Float[Tensor, "o r ..."]]


def read_adapters(path: Path, part: str) -> dict[str, LoRAPair]:
    """A and B of every layer of ``part`` (unet or transformer), B times the scale alpha / rank that the file asks for.

    path: a file, or a folder that holds one. Raises ValueError where it cannot be read or holds nothing for this part.
    """
    found = [path] if path.is_file() else [path / name for name in LORA_FILES if (path / name).is_file()]
    if not found:
        raise ValueError(
            f"no adapters at {path}: give a .safetensors file, or a folder that holds {' or '.join(LORA_FILES)}"
        )
    try:
        with safe_open(found[0], "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dict
            note = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except SafetensorError as error:
        raise ValueError(f"{found[0]} is no .safetensors file that can be read: {error}") from error
    config = found[0].parent / "adapter_config.json"
    own = {key.removeprefix(f"{part}."): value for key, value in note.items()}
    own |= json.loads(config.read_text()) if config.is_file() and found[0].name == LORA_FILES[1] else {}
    odd = [key for key in ("use_dora", "use_rslora", "alpha_pattern") if own.get(key)]
    if odd:
        raise ValueError(f"{found[0]} sets {', '.join(odd)}, which these adapters do not have")
    plain = {_layer_name(key, part): tensor for key, tensor in tensors.items()}
    pairs = {}
    for name in sorted(key.removesuffix(end) for key in plain for end in _DOWN_SUFFIXES if key.endswith(end)):
        a = next(plain[name + end] for end in _DOWN_SUFFIXES if name + end in plain)
        b = next((plain[name + end] for end in _UP_SUFFIXES if name + end in plain), None)
        if (
            b is None
            or a.ndim != b.ndim
            or a.ndim not in (2, 4)
            or any(side != 1 for side in b.shape[2:])
        ):
            raise ValueError(
                f"{found[0]}: {name} is no pair of matrices A and B, nor a convolution A and matrix B"
            )
        alpha = (
            float(plain[f"{name}.alpha"])
            if f"{name}.alpha" in plain
            else own.get("lora_alpha", len(a))
        )
        pairs[name] = (a.float(), b.float() * (alpha / len(a)))
    if not pairs:
        raise ValueError(
            f"{found[0]} holds no adapters of a {part} in a known layout; its first key is {next(iter(tensors), 'missing')}"
        )
    return pairs


def read_pose(path: Path) -> dict[str, Tensor] | None:
    """What was saved of the camera beside the adapters at ``path``, a file or a folder; None where nothing was."""
    file = (path if path.is_dir() else path.parent) / POSE_FILE
    if not file.is_file():
        return None
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no .safetensors file that can be read: {error}") from error


def _layer_name(key: str, part: str) -> str:
    for head in (*_KEY_PREFIXES, f"{part}."):
        key = key.removeprefix(head)
    return key
