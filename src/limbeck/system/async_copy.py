"""What tensors hold, for a thread that can wait for it while the steps go on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class AsyncCopies:
    """Copies of tensors as they are now, each in memory of its own, made where the tensors are: the host waits for nothing.

    ``fetched`` brings them to the CPU and is for a thread that may wait. On CUDA they travel by a stream of their own into pinned
    memory, so that the device's own work is not held up either.
    """

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._own = {
            k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()
        }
        devices = {value.device for value in self._own.values() if value.is_cuda}
        self._made = {
            device: torch.cuda.current_stream(device).record_event() for device in devices
        }

    def fetched(self) -> dict[str, Tensor]:
        """The copies on the CPU, by name; to be called once, as those on a device are let go."""
        own, self._own = self._own, {}
        aside = {device: torch.cuda.Stream(device) for device in self._made}
        for device, stream in aside.items():
            stream.wait_event(self._made[device])
        here = {}
        for name, value in own.items():
            if value.is_cuda:
                with torch.cuda.stream(aside[value.device]):
                    here[name] = torch.empty_like(value, device="cpu", pin_memory=True).copy_(
                        value, non_blocking=True
                    )
            else:
                here[name] = value.cpu()
        for stream in aside.values():
            stream.synchronize()
        return here
