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


def require_one_process(reason: str) -> None:
    """Check that there are no several processes, between which rows are divided.

    Args:
        reason: why one is needed, as the start of the message.

    Raises:
        ValueError: if there are several.
    """
    if num_processes() > 1:
        raise ValueError(f"{reason}, which {num_processes()} processes divide: use one process")


def wait_for_processes() -> None:
    """Wait until every process comes here, such as for a file that process 0 writes."""
    if num_processes() > 1:
        dist.barrier()


@contextmanager
def dividing() -> Iterator[None]:
    """Divide network calls inside: every process must come here and make the same calls."""
    global _dividing
    before, _dividing = _dividing, True
    try:
        yield
    finally:
        _dividing = before


def is_divided(count: int, group_size: int = 1) -> bool:
    """Whether a batch of so many rows is divided; a smaller one is computed by every process.

    Args:
        count: number of rows.
        group_size: rows that stay together.
    """
    return _dividing and count // group_size >= num_processes() > 1


def own_rows(count: int, group_size: int = 1) -> slice:
    """The rows of this process, out of ``count``, in whole groups."""
    size, larger = divmod(count // group_size, num_processes())
    index = dist.get_rank()
    start = index * size + min(index, larger)
    return slice(group_size * start, group_size * (start + size + (index < larger)))


def take_rows(x: Float[Tensor, "b ..."], group_size: int = 1) -> Float[Tensor, "r ..."]:
    """Return the rows of this process of a tensor that every process has, differentiably."""
    return _TakeRows.apply(x, group_size)


def join_rows(x: Float[Tensor, "r ..."], count: int, group_size: int = 1) -> Float[Tensor, "b ..."]:
    """Return all rows, of which each process has its part, differentiably.

    Args:
        x: the rows of this process.
        count: number of all rows.
        group_size: rows that stayed together.
    """
    return _GatherRows.apply(x, count, group_size)


def _all_gather(x: Tensor, count: int, group_size: int) -> Tensor:
    """Concatenate the rows of all processes, which may differ by one group in number."""
    smaller, larger = divmod(count // group_size, num_processes())
    padded = x.new_zeros(group_size * (smaller + (larger > 0)), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in range(num_processes())]
    dist.all_gather(parts, padded)
    own = [part[: group_size * (smaller + (i < larger))] for i, part in enumerate(parts)]
    return torch.cat(own)


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group_size: int) -> Tensor:
        ctx.count, ctx.group_size = len(x), group_size
        return x[own_rows(len(x), group_size)].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rows = _all_gather(gradients[0].contiguous(), ctx.count, ctx.group_size)
        return rows / num_processes(), None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, group_size: int) -> Tensor:
        ctx.rows = own_rows(count, group_size)
        return _all_gather(x.contiguous(), count, group_size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return num_processes() * gradients[0][ctx.rows], None, None


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
