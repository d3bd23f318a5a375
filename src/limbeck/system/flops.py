"""What one step takes: floating-point operations and bytes by part, counted at the operations themselves."""

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

REST = "rest"  #: what belongs to no named part


#: the attention of CPUs, which torch's registry leaves out: its formula, and how many of its first arguments that takes
OWN: dict[Any, tuple[Callable[..., int], int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (sdpa_flop_count, 3),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        sdpa_backward_flop_count,
        4,
    ),
}


def scaled(value: float, unit: str) -> str:
    """A count with three digits and the prefix that suits it: ``3.32 GFLOP``, ``13.6 MB``."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            short = value / size
            return f"{short:.3g} {prefix}{unit}" if short < 1000 else f"{short:,.0f} {prefix}{unit}"
    return f"{value:.0f} {unit}"


class OpCounter(TorchDispatchMode):
    """While it is open, counts without changing anything.

    flops: of matrix products, convolutions and attention, a multiplication and an addition being two, as torch counts them; what
    works number by number is left out. bytes: most that tensors made since the opening held at once, by part; on CUDA what the
    allocator held beyond the opening, workspaces too. What is already there at the opening (weights, particles) counts nothing.
    """

    def __init__(self, device: str = "cpu"):
        super().__init__()
        self.flops: dict[str, int] = {}
        self.bytes: dict[str, int] = {}
        self._part, self._live, self._known = REST, 0, weakref.WeakKeyDictionary[Any, bool]()
        self._cuda = torch.device(device) if device.startswith("cuda") else None
        if self._cuda is not None:
            self._before = torch.cuda.memory_allocated(self._cuda)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """What is done now belongs to ``part``."""
        outer, self._part = self._part, part
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._most()
        try:
            yield
        finally:
            self._most()
            self._part = outer

    def _most(self) -> None:
        held = (
            self._live
            if self._cuda is None
            else torch.cuda.max_memory_allocated(self._cuda) - self._before
        )
        self.bytes[self._part] = max(self.bytes.get(self._part, 0), held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        counted = 0
        if packet in flop_registry:
            counted = int(flop_registry[packet](*args, **kwargs, out_val=out))
        elif packet in OWN:
            formula, count = OWN[packet]
            counted = formula(*(tensor.shape for tensor in args[:count]))
        if counted:
            self.flops[self._part] = self.flops.get(self._part, 0) + counted
        if self._cuda is None:
            self._hold(args, kwargs, out)
        return out

    def _hold(self, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
        """Count storages that an operation made, until they are gone; those of its inputs were there before."""
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._known.setdefault(leaf.untyped_storage(), True)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage()) not in self._known:
                self._known[storage] = True
                size = storage.nbytes()
                self._live += size
                weakref.finalize(storage, self._gone, size)
        self._most()

    def _gone(self, size: int) -> None:
        self._live -= size
