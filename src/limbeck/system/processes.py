"""Several processes that take the same steps together, each with a part of the network's rows.

All processes hold the same particles and draw the same numbers. Inside ``dividing``, a batch that
every process has is divided: ``take_rows`` gives each its part and ``join_rows`` puts results
together. Both are differentiable. A gradient that was computed on a part is scaled so that the
mean over processes, ``average_gradients``, is the gradient of the whole batch; that of a
computation which every process repeats is the same in all, and its mean is itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from limbeck.system.launch import launched_processes

_dividing = False


def join_processes(device: str) -> None:
    """Connect the processes that torchrun has started; nothing happens without it.

    Args:
        device: device of the model in this process.
    """
    if launched_processes() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")


def num_processes() -> int:
    """Number of connected processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def dividing() -> Iterator[None]:
    """Divide network calls inside: every process must come here and make the same calls."""
    global _dividing
    before, _dividing = _dividing, True
    try:
        yield
    finally:
        _dividing = before


def is_divided(count: int) -> bool:
    """Whether a batch of so many rows is divided; a smaller one is computed by every process."""
    return _dividing and count >= num_processes() > 1


def own_rows(count: int) -> slice:
    """The rows of this process, out of ``count``."""
    size, larger = divmod(count, num_processes())
    index = dist.get_rank()
    start = index * size + min(index, larger)
    return slice(start, start + size + (index < larger))


def take_rows(x: Float[Tensor, "b ..."]) -> Float[Tensor, "r ..."]:
    """Return the rows of this process of a tensor that every process has, differentiably."""
    return _TakeRows.apply(x)


def join_rows(x: Float[Tensor, "r ..."], count: int) -> Float[Tensor, "b ..."]:
    """Return all rows, of which each process has its part, differentiably.

    Args:
        x: the rows of this process.
        count: number of all rows.
    """
    return _GatherRows.apply(x, count)


def _all_gather(x: Tensor, count: int) -> Tensor:
    """Concatenate the rows of all processes, which may differ by one in number."""
    size = -(-count // num_processes())
    padded = x.new_zeros(size, *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in range(num_processes())]
    dist.all_gather(parts, padded)
    smaller, larger = divmod(count, num_processes())
    return torch.cat([part[: smaller + (i < larger)] for i, part in enumerate(parts)])


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        return x[own_rows(len(x))].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _all_gather(gradients[0].contiguous(), ctx.count) / num_processes()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int) -> Tensor:
        ctx.count = count
        return _all_gather(x.contiguous(), count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return num_processes() * gradients[0][own_rows(ctx.count)], None


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace each gradient by its mean over processes, in one exchange per dtype."""
    if num_processes() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= num_processes()
        for gradient, mean in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(mean.view_as(gradient))
