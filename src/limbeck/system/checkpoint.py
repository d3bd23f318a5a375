"""Checkpoints: named tensors and metadata in one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from limbeck.system.async_copy import AsyncCopies
from limbeck.system.files import replacing
from limbeck.system.finite import FiniteMonitor, check_finite

SPARSE_MIN_SIZE = 1 << 16  #: number of elements from which a tensor may be stored sparsely
_INDICES, _VALUES = "@indices", "@values"


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, if the system can do that."""
    if os.name == "nt" or not path.exists():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, each with its own memory: safetensors refuses shared memory."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def write_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file to create or replace.
        tensors: tensors by name.
        metadata: what to store with them, as JSON; ``metadata["step"]`` is the number of steps.

    Raises:
        OSError: if the file cannot be written, for example on a full disk. The old file stays.
    """
    write_cpu_tensors(path, copy_to_cpu(tensors), metadata)


def write_async_copies(
    path: Path, copies: AsyncCopies, metadata: Mapping[str, Any], monitor: FiniteMonitor
) -> None:
    """Write a checkpoint of copies, which are fetched from the device here.

    Args:
        path: the file to create or replace.
        copies: the tensors of the run.
        metadata: what to store with them; ``metadata["step"]`` is the number of steps done.
        monitor: check of the run's gradients.

    Raises:
        NonFiniteError: if a tensor, or a gradient before it, is not finite. The old file stays.
        OSError: if the file cannot be written. The old file stays.
    """
    tensors = copies.to_cpu()
    if monitor.deferred:
        monitor.raise_if_bad()
        check_finite(tensors, metadata["step"])
    write_cpu_tensors(path, tensors, metadata)


def write_cpu_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint of contiguous CPU tensors that share no memory.

    Args:
        path: the file to create or replace.
        tensors: tensors by name, as ``copy_to_cpu`` returns them.
        metadata: what to store with them, as JSON.

    Raises:
        OSError: if the file cannot be written. The old file stays.
    """
    stored, shapes = _sparsify(tensors)
    data = save(stored, {"metadata": json.dumps(metadata), "shapes": json.dumps(shapes)})
    try:
        with replacing(path) as part, part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync(path.parent)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror} ({len(data) / 1e6:.1f} MB needed)"
        if path.exists():
            message += "; the previous file is kept"
        raise OSError(error.errno, message) from error


def _sparsify(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Store large tensors that are mostly zeros as values and indices; also return their shapes.

    Of a grid and its optimizer state only what is near a surface ever changes, so that files are
    several times smaller. A zero is one whose bits are all zero: what is read is what was written.
    """
    stored, shapes = {}, {}
    for name, value in tensors.items():
        if value.dtype == torch.float32 and SPARSE_MIN_SIZE <= value.numel() < 1 << 31:
            flat = value.reshape(-1)
            indices = flat.view(torch.int32).nonzero().flatten()
            if 2 * len(indices) < len(flat):
                stored[name + _INDICES] = indices.int()
                stored[name + _VALUES] = flat[indices]
                shapes[name] = list(value.shape)
                continue
        stored[name] = value
    return stored, shapes


def _densify(stored: dict[str, Tensor], shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Undo ``_sparsify``."""
    for name, shape in shapes.items():
        indices, values = stored.pop(name + _INDICES), stored.pop(name + _VALUES)
        flat = torch.zeros(math.prod(shape)).index_copy_(0, indices.long(), values)
        stored[name] = flat.reshape(shape)
    return stored


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(
        f"{path} is damaged ({reason}): delete it to start the run over, or choose another folder"
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint without its tensors; ``step`` is a number of steps.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})["metadata"])
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(metadata, dict):
        raise _damaged(path, ValueError(f"its metadata is no JSON object but {metadata!r:.60}"))
    step = metadata.get("step")
    if type(step) is not int or step < 0:
        text = f"the step in its metadata must be a number of steps, not {step!r:.60}"
        raise _damaged(path, ValueError(text))
    return metadata


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a checkpoint, on the CPU, and its metadata.

    Raises:
        ValueError: if the file is damaged.
    """
    metadata = read_metadata(path)
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()  # a safe_open is no mapping
            stored = {name: file.get_tensor(name) for name in names}
            shapes = json.loads(file.metadata().get("shapes", "{}"))
            return _densify(stored, shapes), metadata
    except (
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise _damaged(path, error) from error
