"""Copies of tensors that another thread fetches from the device while training continues."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class AsyncCopies:
    """Copies of tensors at this moment, made on their own devices without waiting for them.

    ``to_cpu`` is called by a thread that may wait. On CUDA it transfers them on a stream of its own
    into pinned memory, so that the device's own work is not delayed either.

    Args:
        tensors: the tensors by name; each copy is contiguous and shares no memory.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._copies = {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
        devices = {value.device for value in self._copies.values() if value.is_cuda}
        self._copied = {
            device: torch.cuda.current_stream(device).record_event() for device in devices
        }

    def to_cpu(self) -> dict[str, Tensor]:
        """Return the copies on the CPU by name; call it once, as it frees those on the device."""
        copies, self._copies = self._copies, {}
        streams = {device: torch.cuda.Stream(device) for device in self._copied}
        for device, stream in streams.items():
            stream.wait_event(self._copied[device])
        on_cpu = {}
        for name, value in copies.items():
            if not value.is_cuda:
                on_cpu[name] = value.cpu()
                continue
            with torch.cuda.stream(streams[value.device]):
                pinned = torch.empty_like(value, device="cpu", pin_memory=True)
                on_cpu[name] = pinned.copy_(value, non_blocking=True)
        for stream in streams.values():
            stream.synchronize()
        return on_cpu
