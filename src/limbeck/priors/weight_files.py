"""Weight files of a component: suffix, variant and shards, and their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from limbeck.system.files import one_line, open_tensors

if TYPE_CHECKING:
    from torch import Tensor

#: A weight that only MVDream has, in the names of its code.
CAMERA_WEIGHT = "model.diffusion_model.camera_embed.0.weight"
WEIGHT_SUFFIXES = (".safetensors", ".bin")  #: in order of preference
_VARIANTS = ("", "fp16", "bf16")  #: in order of preference; others, such as non_ema, after these
_WEIGHT_FILE = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?"
    r"(?:-\d+-of-\d+(?:\.(?P<old_variant>\w+))?)?(?P<suffix>\.safetensors|\.bin)"
)
_INDEX_FILE = re.compile(
    r"(?P<stem>\w+)(?P<suffix>\.safetensors|\.bin)\.index(?:\.(?P<variant>\w+))?\.json"
)


class WeightFiles(NamedTuple):
    """One set of weights of a component.

    Attributes:
        suffix: ``.safetensors`` or ``.bin``.
        variant: ``fp16``, ``bf16``, ``non_ema`` or another; empty for the plain name.
        files: the file, or all shards.
        indices: the index of the shards, if there is one.
    """

    suffix: str
    variant: str
    files: tuple[str, ...]
    indices: tuple[str, ...]


def preferred_weights(files: Iterable[str]) -> WeightFiles | None:
    """Return the preferred set of weights of a component; None if there is none.

    Safetensors before pickles; full precision before fp16 and bf16, other variants last.

    Args:
        files: names or paths of the files of one component.
    """
    files = sorted(files)
    sets: dict[tuple[int, int, str], list[str]] = {}
    for file in files:
        match = _WEIGHT_FILE.fullmatch(file.rpartition("/")[2])
        if match is None:
            continue
        variant = match["variant"] or match["old_variant"] or ""
        rank = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
        key = (WEIGHT_SUFFIXES.index(match["suffix"]), rank, variant)
        sets.setdefault(key, []).append(file)
    if not sets:
        return None
    best = min(sets)
    suffix, variant = WEIGHT_SUFFIXES[best[0]], best[2]
    indices = [file for file in files if _is_index(file.rpartition("/")[2], suffix, variant)]
    return WeightFiles(suffix, variant, tuple(sets[best]), tuple(indices))


def weight_names(path: Path) -> set[str]:
    """Return the names of the tensors of a file, as ``read_weights`` does."""
    if path.suffix != ".safetensors":
        return set(read_weights(path))
    with open_tensors(path) as file:
        return set(file.keys())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, read when they are used.

    Args:
        path: a ``.safetensors`` file, or a pickle, of which only tensors are read.

    Raises:
        ValueError: if it cannot be read, or holds anything but tensors.
    """
    if path.suffix == ".safetensors":
        with open_tensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    import torch  # takes a second, and the list of models needs none

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of unpickling, of whatever kind the file calls for
        raise ValueError(f"{path} is no readable pickle of tensors: {one_line(error)}") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise ValueError(f"{path} is a pickle of something else than tensors by name")
    return found


def _is_index(name: str, suffix: str, variant: str) -> bool:
    match = _INDEX_FILE.fullmatch(name)
    return match is not None and (match["suffix"], match["variant"] or "") == (suffix, variant)
