"""Refusal of tensors that cannot fit into memory, before the system tries to make them.

A host grants more memory than it has and ends the process once it is used, without a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from limbeck.system.environment import free_bytes
from limbeck.system.out_of_memory import insufficient_memory_message

_SIZED = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full)
_FLOAT_BYTES = 4
_SMALL = 1 << 28  #: bytes that are not checked


def check_allocation(size: int, device: str, breakdown: str) -> None:
    """Check that memory is free on a device.

    Args:
        size: bytes that will be needed at least.
        device: the device.
        breakdown: what they are needed for, for the message.

    Raises:
        ValueError: if fewer are free.
    """
    free = free_bytes(device)
    if free is not None and size > free:
        raise ValueError(insufficient_memory_message(size, free, breakdown))


class AllocationGuard(TorchFunctionMode):
    """While entered, refuses a new parameter that does not fit into the memory free at that moment.

    Adam needs four times a parameter: its gradient and two running means besides itself.

    Args:
        device: device whose free memory counts.
    """

    def __init__(self, device: str):
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        shape = _new_shape(func, args, options)
        size = _FLOAT_BYTES * math.prod(shape)
        if size > _SMALL:
            state = "its gradient and optimizer state"
            check_allocation(4 * size, self._device, f"a tensor of {list(shape)} with {state}")
        return func(*args, **options)


def _new_shape(
    func: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]
) -> tuple[int, ...]:
    """Shape of the tensor that a call makes from numbers; empty for other calls."""
    if func is torch.arange and args:
        start, stop, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
        return (max(0, math.ceil((stop - start) / step)),)
    if func is torch._sobol_engine_draw:  # points that representations are spread over
        return (args[1], args[3])
    if func not in _SIZED:
        return ()
    given = options.get("size", args[0] if args else ())
    shape = given if isinstance(given, list | tuple) else args
    return tuple(n for n in shape if isinstance(n, int))
