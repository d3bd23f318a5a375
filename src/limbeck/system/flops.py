"""Floating-point operations and bytes by part, counted at the operations themselves."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_REST = "rest"  #: what belongs to no named part

_aten = torch.ops.aten
#: the attention of CPUs, which torch's registry lacks: formula and number of its arguments
_CPU_ATTENTION: dict[Any, tuple[Callable[..., int], int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: (sdpa_flop_count, 3),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (sdpa_backward_flop_count, 4),
}
_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def format_si(value: float, unit: str) -> str:
    """Format a count with three digits and an SI prefix, such as ``3.32 GFLOP`` or ``13.6 MB``."""
    for prefix, size in _PREFIXES:
        if value >= size:
            scaled = value / size
            digits = f"{scaled:.3g}" if scaled < 1000 else f"{scaled:,.0f}"
            return f"{digits} {prefix}{unit}"
    return f"{value:.0f} {unit}"


class OpCounter(TorchDispatchMode):
    """Counts operations and bytes while it is active, without changing any result.

    Args:
        device: device whose memory is counted.

    Attributes:
        flops: by part, of matrix products, convolutions and attention, as torch counts them: a
            multiply-add is two. Elementwise operations are not counted.
        bytes: by part, the peak memory of tensors made since the start. On CUDA: what the allocator
            held beyond the start, workspaces included. What existed at the start, such as weights
            and particles, does not count.
    """

    def __init__(self, device: str = "cpu"):
        super().__init__()
        self.flops: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self._part = _REST
        self._live_bytes = 0
        self._known_storages = weakref.WeakKeyDictionary[Any, bool]()
        self._cuda = torch.device(device) if device.startswith("cuda") else None
        if self._cuda is not None:
            self._initial_bytes = torch.cuda.memory_allocated(self._cuda)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Attribute the operations inside this context to the part ``name``."""
        outer, self._part = self._part, name
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._update_peak()
        try:
            yield
        finally:
            self._update_peak()
            self._part = outer

    def _update_peak(self) -> None:
        size = self._live_bytes
        if self._cuda is not None:
            size = torch.cuda.max_memory_allocated(self._cuda) - self._initial_bytes
        self.bytes[self._part] = max(self.bytes.get(self._part, 0), size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        flops = 0
        if packet in flop_registry:
            flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
        elif packet in _CPU_ATTENTION:
            formula, num_args = _CPU_ATTENTION[packet]
            flops = formula(*(tensor.shape for tensor in args[:num_args]))
        if flops:
            self.flops[self._part] = self.flops.get(self._part, 0) + flops
        if self._cuda is None:
            self._track(args, kwargs, out)
        return out

    def _track(self, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        """Count new storages of an operation until they are freed."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._known_storages.setdefault(leaf.untyped_storage(), True)
        for leaf in tree_leaves(out):
            if not isinstance(leaf, Tensor):
                continue
            storage = leaf.untyped_storage()
            if storage not in self._known_storages:
                self._known_storages[storage] = True
                self._live_bytes += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self._update_peak()

    def _free(self, size: int) -> None:
        self._live_bytes -= size
