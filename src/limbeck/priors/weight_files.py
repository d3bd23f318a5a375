"""Names of the weight files of a component: suffix, variant and shards."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

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


def _is_index(name: str, suffix: str, variant: str) -> bool:
    match = _INDEX_FILE.fullmatch(name)
    return match is not None and (match["suffix"], match["variant"] or "") == (suffix, variant)
