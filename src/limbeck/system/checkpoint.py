"""Checkpoints: named tensors and a note in one safetensors file that is either the old one or the new one, never half of either."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from limbeck.system.async_copy import AsyncCopies
from limbeck.system.finite import FiniteMonitor, check_finite

LARGE = 1 << 16  #: numbers from which on a tensor may be kept by its numbers other than zero
PLACES, NUMBERS = "@places", "@numbers"


def write_text(path: Path, text: str) -> None:
    """Replace a small file in one move."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What tensors hold now, on the CPU, each in memory of its own: safetensors refuses tensors that share it."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def write_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any] | None = None
) -> None:
    """Replace ``path`` in one move. If the disk is full, what was there stays and OSError says so."""
    write_snapshot(path, snapshot(tensors), note)


def keep(path: Path, copies: AsyncCopies, note: Mapping[str, Any], watch: FiniteMonitor) -> None:
    """Replace ``path`` by what was copied after ``note["step"]`` steps, unless a value in it or before it is not finite."""
    own = copies.fetched()
    if watch.lazy:
        watch.ask()
        check_finite(own, note["step"])
    write_snapshot(path, own, note)


def write_snapshot(
    path: Path, own: dict[str, Tensor], note: Mapping[str, Any] | None = None
) -> None:
    """The same of what ``snapshot`` answered."""
    part = path.with_name(path.name + ".part")
    thin, shapes = _thinned(own)
    data = serialise(thin, {"note": json.dumps(note or {}), "shapes": json.dumps(shapes)})
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        kept = "; the one before is kept" if path.exists() else ""
        raise OSError(
            error.errno,
            f"cannot write {path}: {error.strerror} ({len(data) / 1e6:.1f} MB needed){kept}",
        ) from error


def _thinned(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """The same with large tensors that are mostly zeros as their other numbers and the places of these, and the shapes of those.

    Of a grid only what is near a surface ever moves, and of what an optimiser remembers of it, so that a file is several times
    smaller. Zeros are those of all bits: what is read is what was written.
    """
    out, shapes = {}, {}
    for name, value in tensors.items():
        if value.dtype == torch.float32 and LARGE <= value.numel() < 1 << 31:
            flat = value.reshape(-1)
            places = flat.view(torch.int32).nonzero().flatten()
            if 2 * len(places) < len(flat):
                out[name + PLACES], out[name + NUMBERS], shapes[name] = (
                    places.int(),
                    flat[places],
                    list(value.shape),
                )
                continue
        out[name] = value
    return out, shapes


def _filled(thin: dict[str, Tensor], shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """What ``_thinned`` was given."""
    for name, shape in shapes.items():
        places, numbers = thin.pop(name + PLACES), thin.pop(name + NUMBERS)
        thin[name] = (
            torch.zeros(math.prod(shape)).index_copy_(0, places.long(), numbers).reshape(shape)
        )
    return thin


def _broken(path: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(
        f"{path} is damaged ({reason}): delete it to start the run over, or name another folder"
    )


def read_note(path: Path) -> dict[str, Any]:
    """The note alone, without reading the tensors. ValueError if the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["note"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _broken(path, error) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and note. ValueError if the file is damaged."""
    told = read_note(path)
    try:
        with safe_open(path, "pt") as file:
            thin = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return _filled(thin, json.loads(file.metadata().get("shapes", "{}"))), told
    except (SafetensorError, KeyError) as error:
        raise _broken(path, error) from error
