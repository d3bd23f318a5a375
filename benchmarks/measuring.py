"""Time and memory of calls, shared by the benchmarks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass
class BlankPrior:
    """What building a representation needs of a prior, without a model.

    Attributes:
        size: height and width of the images.
        device: device of the particles.
        size_multiple: divisor of image sizes.
    """

    size: int
    device: str
    size_multiple: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of latents: 4 channels at a quarter of the size, as in the embedded model."""
        return (4, self.size // 4, self.size // 4)

    @property
    def image_size(self) -> tuple[int, int]:
        return (self.size, self.size)


def clock(device: str) -> float:
    """Seconds: synchronized wall time on a GPU, CPU time of all threads on a CPU.

    Unlike wall time, CPU time does not grow with other work on the machine.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(call: Callable[[], object], device: str) -> float:
    """Seconds of one call."""
    start = clock(device)
    call()
    return clock(device) - start


def peak_mb(device: str, reset: bool = False) -> float:
    """Peak memory in MB: of the device, or of the whole process (Linux; elsewhere 0)."""
    if device.startswith("cuda"):
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text(encoding="utf-8"))[0]) * 1024 / 1e6


def saved_bytes(forward: Callable[[], object], parameters: Iterable[nn.Parameter]) -> int:
    """Bytes that autograd saves for the backward pass of a call, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in parameters}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        output = forward()  # kept until its tensors are counted
    del output
    return sum(saved.values())


def print_row(cells: Sequence[object]) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def print_header(cells: Sequence[object]) -> None:
    """Print the header of a Markdown table."""
    print_row(cells)
    print("|---" * len(cells) + "|")
