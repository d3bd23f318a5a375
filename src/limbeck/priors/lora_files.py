"""LoRA files of Limbeck, diffusers, peft and kohya: a file is read whole or refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.system.files import one_line, open_tensors, parse_json_object, read_json_object

POSE_FILE = "pose.safetensors"  #: pose embedding of a camera-conditioned critic
_PEFT_FILE = "adapter_model.safetensors"
LORA_FILES = ("pytorch_lora_weights.safetensors", _PEFT_FILE)

#: A ``[rank, in, ...]`` and B ``[out, rank, ...]`` of one layer.
LoRAPair = tuple[Float[Tensor, "r i ..."], Float[Tensor, "o r ..."]]
#: Pairs by component of the pipeline (``unet``, ``text_encoder``), then by layer.
LoRAContents = dict[str, dict[str, LoRAPair]]
#: Converts the tensors of a foreign layout; also returns alpha by layer.
LoRAConversion = Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], Mapping[str, float]]]

_PEFT_PREFIX = "base_model.model."
_COMPONENT = re.compile(r"(unet|transformer|text_encoder(?:_\d)?)\.(.+)")
#: Keys of kohya, ComfyUI and the authors of Flux, whose layers have other names.
_FOREIGN_PREFIXES = (
    "lora_unet_",
    "lora_te",
    "lora_transformer_",
    "diffusion_model.",
    "model.diffusion_model.",
    "double_blocks.",
    "single_blocks.",
)
#: Ends of the keys of A and B; peft may add the name of an adapter.
_MATRIX = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.lora_(?P<ab>[AB])(?:\.\w+)?|"
    r"(?P<separator>\.|_)lora(?:\.|_|_linear_layer\.)(?P<updown>up|down)"
    r")\.weight"
)
_ALPHA = re.compile(r"(?P<layer>.+?)(?:(?:\.|_)lora(?:\.|_|_linear_layer\.)down\.weight)?\.alpha")
#: Names of diffusers before 0.25, in the processors of attention of a U-Net and of CLIP.
_OLD_UNET_LAYERS = {"to_out": "to_out.0"}
_OLD_TEXT_LAYERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
#: Options of peft under which B A alpha / rank is not the change of the weights.
_UNSUPPORTED_OPTIONS = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
)
#: Initializations that also change the frozen weights.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass
class _Parsed:
    """Tensors of a file by what they are.

    Attributes:
        pairs: A and B by component and layer.
        alphas: alpha by component and layer, from tensors.
        left: keys that are neither.
    """

    pairs: dict[tuple[str, str], dict[str, Tensor]] = field(default_factory=dict)
    alphas: dict[tuple[str, str], float] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def read_lora(path: Path, network_name: str, convert: LoRAConversion | None = None) -> LoRAContents:
    """Read every tensor of a LoRA.

    Args:
        path: a file, or a folder that holds one of ``LORA_FILES``.
        network_name: ``unet`` or ``transformer``, the component of keys without one.
        convert: converts kohya's and other foreign layouts; None: they are refused.

    Returns:
        A and B of every adapted layer. B includes the scale alpha / rank.

    Raises:
        ValueError: if the file cannot be read, states no scale, has options that are not supported,
            or holds a tensor that would be left out.
    """
    file = find_lora_file(path)
    with open_tensors(file) as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        metadata = parse_json_object(
            (opened.metadata() or {}).get("lora_adapter_metadata", "{}"), file
        )
    if any(key.startswith(_PEFT_PREFIX) for key in tensors):
        metadata |= {f"{network_name}.{k}": v for k, v in _peft_config(file).items()}
    alphas: Mapping[str, float] = {}
    if any(key.startswith(_FOREIGN_PREFIXES) for key in tensors):
        tensors, alphas = _converted(tensors, convert, file)
    parsed = _parse(tensors, network_name)
    for key, alpha in alphas.items():
        name = _component_and_layer(_matched(_ALPHA, key)["layer"], network_name, key)
        parsed.alphas[name] = float(alpha)
    if parsed.left or not parsed.pairs:
        raise ValueError(_leftover_message(file, parsed.left))
    contents: LoRAContents = {}
    for (component, layer), matrices in parsed.pairs.items():
        prefix = f"{component}."
        config = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
        name = (component, layer)
        own_alpha = parsed.alphas.pop(name) if name in parsed.alphas else None
        pair = _scaled_pair(matrices, layer, config, own_alpha, file)
        contents.setdefault(component, {})[layer] = pair
    if parsed.alphas:
        raise ValueError(_leftover_message(file, [".".join((*k, "alpha")) for k in parsed.alphas]))
    return contents


def read_adapters(path: Path, network_name: str) -> dict[str, LoRAPair]:
    """Read a LoRA of a network alone.

    Args:
        path: a file, or a folder that holds one of ``LORA_FILES``.
        network_name: ``unet`` or ``transformer``.

    Returns:
        A and B of every adapted layer by name. B includes the file's scale alpha / rank.

    Raises:
        ValueError: as ``read_lora``, and if the file has weights of another component.
    """
    contents = read_lora(path, network_name)
    others = sorted(set(contents) - {network_name})
    if others:
        raise ValueError(
            f"{path} has weights for {', '.join(others)}; these adapters are of a {network_name} "
            "alone"
        )
    return contents[network_name]


def find_lora_file(path: Path) -> Path:
    """The file of a LoRA, which is not read.

    Args:
        path: a file, or a folder that holds one of ``LORA_FILES``.

    Raises:
        ValueError: if there is none.
    """
    if path.is_file():
        return path
    for name in LORA_FILES:
        if (path / name).is_file():
            return path / name
    files = sorted(path.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    raise ValueError(
        f"no LoRA at {path}: give a .safetensors file, or a folder that holds "
        f"{' or '.join(LORA_FILES)}"
    )


def _peft_config(file: Path) -> dict[str, Any]:
    """The configuration that peft writes next to its weights.

    Raises:
        ValueError: if there is none: only it states the scale.
    """
    config = file.parent / "adapter_config.json"
    if not config.is_file():
        raise ValueError(
            f"{file} is in the layout of peft, but {config}, which states its lora_alpha, is "
            "missing: keep the two together"
        )
    options = read_json_object(config)
    if options.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"{config}: peft_type must be LORA, not {options['peft_type']!r:.40}")
    return options


def _converted(
    tensors: dict[str, Tensor], convert: LoRAConversion | None, file: Path
) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """The tensors in the layout of diffusers, all of them."""
    if convert is None:
        raise ValueError(
            f"{file} is not in the layout of diffusers or peft; its first key is "
            f"{min(tensors)}: give it as --model.lora, or convert it"
        )
    foreign = _parse(tensors, "")
    if foreign.left:
        raise ValueError(_leftover_message(file, foreign.left))
    for (_, layer), matrices in foreign.pairs.items():
        _check_complete(matrices, layer, file)
    try:
        converted, alphas = convert(dict(tensors))
    except Exception as error:  # of whichever conversion of diffusers
        raise ValueError(f"{file} cannot be read as a LoRA: {one_line(error)}") from error
    # conversions split fused layers, which keeps the number of elements of all B
    before, after = (
        sum(pair["B"].numel() for pair in parsed.pairs.values() if "B" in pair)
        for parsed in (foreign, _parse(converted, ""))
    )
    if before != after:
        raise ValueError(
            f"{file} cannot be read whole: diffusers converts {after} of its {before} numbers in "
            "up matrices"
        )
    return converted, alphas


def _matched(pattern: re.Pattern[str], key: str) -> re.Match[str]:
    match = pattern.fullmatch(key)
    if match is None:
        raise ValueError(f"{key!r:.120} is no key of a LoRA")
    return match


def _parse(tensors: Mapping[str, Tensor], network_name: str) -> _Parsed:
    parsed = _Parsed()
    for key, tensor in tensors.items():
        matrix, alpha = _MATRIX.fullmatch(key), _ALPHA.fullmatch(key)
        if matrix is not None:
            kind = matrix["ab"] or {"down": "A", "up": "B"}[matrix["updown"]]
            name = _component_and_layer(matrix["layer"], network_name, key)
            matrices = parsed.pairs.setdefault(name, {})
            if kind in matrices:
                parsed.left.append(key)
            matrices[kind] = tensor
        elif alpha is not None and tensor.numel() == 1:
            name = _component_and_layer(alpha["layer"], network_name, key)
            parsed.alphas[name] = float(tensor)
        else:
            parsed.left.append(key)
    return parsed


def _component_and_layer(layer: str, network_name: str, key: str) -> tuple[str, str]:
    """The component of a layer and its name there, which older versions of diffusers changed."""
    layer = layer.removeprefix(_PEFT_PREFIX)
    match = _COMPONENT.fullmatch(layer)
    component, layer = (match[1], match[2]) if match else (network_name, layer)
    if "_lora." in key:
        parent, _, last = layer.replace(".processor.", ".").rpartition(".")
        old = _OLD_TEXT_LAYERS if component.startswith("text") else _OLD_UNET_LAYERS
        layer = f"{parent}.{old.get(last, last)}"
    return component, layer


def _leftover_message(file: Path, left: list[str]) -> str:
    if not left:
        return f"{file} holds no LoRA in a known layout: it has no tensors of A and B"
    names = ", ".join(sorted(left)[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
    return (
        f"{file} holds tensors that are not of a LoRA in a known layout and would be left out: "
        f"{names:.300}"
    )


def _check_complete(matrices: Mapping[str, Tensor], layer: str, file: Path) -> None:
    """Raise ValueError unless there are finite A and B of one rank."""
    for kind, other in (("A", "B"), ("B", "A")):
        if kind not in matrices:
            raise ValueError(f"{file}: {layer} has {other} but no {kind}: the file is incomplete")
    a, b = matrices["A"], matrices["B"]
    if (
        a.ndim != b.ndim
        or a.ndim not in (2, 4)
        or len(a) != b.shape[1]
        or not len(a)
        or any(length != 1 for length in b.shape[2:])
    ):
        raise ValueError(
            f"{file}: {layer} is neither two matrices A and B nor a convolution A and a matrix B: "
            f"their sizes are {list(a.shape)} and {list(b.shape)}"
        )
    if not bool(torch.isfinite(a.float()).all() and torch.isfinite(b.float()).all()):
        raise ValueError(f"{file}: {layer} has values that are not finite")


def _scaled_pair(
    matrices: Mapping[str, Tensor],
    layer: str,
    config: Mapping[str, Any],
    alpha: float | None,
    file: Path,
) -> LoRAPair:
    """A and alpha / rank B of a layer."""
    _check_complete(matrices, layer, file)
    _check_supported(config, file)
    a, b = matrices["A"].float(), matrices["B"].float()
    rank = len(a)
    stated = _of_layer(config, "rank_pattern", "r", layer, file)
    if stated is not None and stated != rank:
        raise ValueError(f"{file}: {layer} has rank {rank}, but its configuration says {stated:g}")
    if alpha is None:
        alpha = _of_layer(config, "alpha_pattern", "lora_alpha", layer, file)
    if alpha is None:
        alpha = float(rank)
    if not math.isfinite(alpha):
        raise ValueError(f"{file}: {layer} has alpha {alpha}, which is not finite")
    return a, b * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _check_supported(config: Mapping[str, Any], file: Path) -> None:
    unsupported = [key for key in _UNSUPPORTED_OPTIONS if config.get(key)]
    if config.get("bias", "none") != "none":
        unsupported.append("bias")
    if str(config.get("init_lora_weights")).lower().startswith(_CHANGED_BASE):
        unsupported.append(f"init_lora_weights {config['init_lora_weights']}")
    if unsupported:
        raise ValueError(f"{file} sets {', '.join(unsupported)}, which is not supported")


def _of_layer(
    config: Mapping[str, Any], pattern_key: str, key: str, layer: str, file: Path
) -> float | None:
    """An option of peft for a layer: by the patterns of names, else the common value."""
    patterns = config.get(pattern_key) or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"{file}: {pattern_key} must map layers to numbers, not {patterns!r:.60}")
    value = config.get(key)
    for pattern, of_pattern in patterns.items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", layer)  # as peft matches names
        except re.error as error:
            raise ValueError(f"{file}: {pattern_key} {pattern!r:.60} is no pattern") from error
        if found:
            value = of_pattern
            break
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{file}: {key} must be a number, not {value!r:.60}")
    return float(value)


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
    with open_tensors(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
