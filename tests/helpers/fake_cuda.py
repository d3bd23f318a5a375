"""A GPU that is not there: its tensors lie on the CPU and say ``cuda:0``, and whatever makes the host wait for it is noted.

It tells where a step would stand still on CUDA, and where tensors of host and device meet; it tells nothing of speed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU_NAME = "cuda:0"
GPU, HOST = torch.device(GPU_NAME), torch.device("cpu")
#: what answers with numbers, or with a shape that depends on them
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2, aten.unique_dim,
    aten.unique_consecutive, aten.bincount, aten._linalg_check_errors,
}  # fmt: skip
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
MEETING = (Tensor.copy_,)  #: what tensors of host and GPU may meet in, some of them at a price


class Inside(threading.local):
    """How deep this thread is in functions of torch that were given a tensor of the GPU."""

    depth = 0


inside = Inside()


class There(Tensor):
    """A tensor of the GPU; ``here`` holds its numbers. To torch's own code it is on the CPU: autograd asks for no driver."""

    device, is_cuda, is_cpu = GPU, True, False

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        strides, offset = here.stride(), here.storage_offset()
        return Tensor._make_wrapper_subclass(
            cls, here.shape, strides=strides, storage_offset=offset, dtype=here.dtype
        )

    def __init__(self, here: Tensor):
        self.here = here

    def __repr__(self) -> str:
        return f"There({self.here})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (Tensor.cpu, Tensor.to, Tensor.type_as, Tensor.cuda):
            return _moved(*args, **({"device": HOST} if func is Tensor.cpu else {}), **kwargs)
        if func is Tensor.tolist:
            note("tolist")
            return args[0].here.tolist()
        name = func.__name__  # torch's own helpers begin with an underscore
        if not inside.depth and not name.startswith("_") and func not in MEETING:
            _together(func, args, kwargs)
        told = kwargs.get("device") is not None  # where what is made shall be
        inside.depth += not told
        try:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        finally:
            inside.depth -= not told

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _done(func, args, kwargs or {})


def _together(func, args, kwargs) -> None:
    """RuntimeError where CUDA would raise one; numbers of the host are welcome anywhere."""
    strange = [
        x
        for x in tree_leaves((args, kwargs))
        if isinstance(x, Tensor) and not isinstance(x, There) and x.ndim
    ]
    if strange:
        raise RuntimeError(
            f"{func}: a tensor of the host, of shape {tuple(strange[0].shape)}, beside tensors of the GPU"
        )


def _moved(x, *args, device=None, dtype=None, non_blocking=False, memory_format=None, copy=False):
    """``Tensor.to``, which torch would take for nothing, as it takes both devices for the CPU."""
    for arg in args:
        if isinstance(arg, Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, bool):
            non_blocking = arg
        else:
            device = arg
    device, dtype = torch.device(device or x.device), dtype or x.dtype
    if device.type == x.device.type and dtype == x.dtype and memory_format is None and not copy:
        return x
    with torch._C.DisableTorchFunctionSubclass():
        return aten._to_copy(
            x, dtype=dtype, device=device, non_blocking=non_blocking, memory_format=memory_format
        )


def _done(func, args, kwargs):
    """An operation, done on the CPU and noted; what it makes is where a GPU would have it."""
    kind, tensors = (
        func._overloadpacket,
        [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)],
    )
    near = any(isinstance(x, There) for x in tensors)
    backward = torch._C._current_graph_task_id() != -1
    to = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if near:
        _note(func, kind, args, kwargs, to)
    if not near and kind is aten._to_copy and to == "cuda" and not kwargs.get("non_blocking"):
        note("a copy to the GPU that is waited for")
    moved = {
        k: (HOST if k == "device" and v is not None else False if k == "pin_memory" else v)
        for k, v in kwargs.items()
    }
    out = func(*tree_map(_here, args), **tree_map(_here, moved))
    if func._schema.is_mutable and out is not None and isinstance(args[0], Tensor):
        return args[0]
    # torch's own code makes what it needs on the CPU, where it takes the GPU's tensors to be
    own = (near or not tensors) and (backward or inside.depth)
    if to == "cuda" or own or (near and to is None):
        return tree_map(
            lambda x: There(x) if isinstance(x, Tensor) and not isinstance(x, There) else x, out
        )
    return out


def _here(x):
    return x.here if isinstance(x, There) else x


def _note(func, kind, args, kwargs, to) -> None:
    if kind in WAITING or (
        func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
    ):
        note(str(func))
    elif kind in INDEXED and isinstance(args[0], There):
        for index in (i for i in args[1] if i is not None):
            if index.dtype in (torch.bool, torch.uint8):
                note(f"{func} by a mask")
            elif not isinstance(index, There) and index.ndim:
                note(f"{func} by places on the host")
    elif kind is aten._to_copy and to == "cpu" and not inside.depth:
        note("a copy to the host")
    elif kind is aten.copy_ and isinstance(args[0], There) != isinstance(args[1], There):
        soon = len(args) > 2 and args[2]
        if not (soon and isinstance(args[0], There)) and not (
            soon and threading.current_thread() is not threading.main_thread()
        ):
            note("a copy between host and GPU")


NOTES: list[
    tuple[str, str]
] = []  #: of what was waited for by the main thread: what, and where in the house


def note(what: str) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    frame = sys._getframe(1)
    while frame.f_back is not None and "/limbeck/" not in frame.f_code.co_filename:
        frame = frame.f_back
    NOTES.append((what, f"{frame.f_code.co_filename.split('/limbeck/')[-1]}:{frame.f_lineno}"))


class Event:
    """``torch.cuda.Event``: all is done at once, and only to wait for it is noted."""

    def __init__(self, *args, **kwargs):
        pass

    def record(self, *args) -> None:
        pass

    def wait(self, *args) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 0.0

    def synchronize(self) -> None:
        note("an event that is waited for")


class Stream(Event):
    """``torch.cuda.Stream``."""

    def wait_event(self, event: Event) -> None:
        pass

    def record_event(self) -> Event:
        return Event()


@contextmanager
def stream(_):
    yield


class Pretended(TorchDispatchMode):
    """While it is open there is a GPU, for the thread that opened it."""

    _mode_key = (
        torch._C._TorchDispatchModeKey.FAKE
    )  # so that torch asks for no driver when something is made on a device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _done(func, args, kwargs or {})


@contextmanager
def gpu() -> Iterator[list[tuple[str, str]]]:
    """A pretended GPU, ``cuda:0``, and the notes of what was waited for since."""
    by_device = torch.optim.Optimizer._group_tensors_by_device_and_dtype

    def grouped(lists, with_indices=False):
        found = by_device(lists, with_indices)
        return {
            (next(x for x in part[0][0] if x is not None).device, key[1]): part
            for key, part in found.items()
        }

    lift = torch._C._only_lift_cpu_tensors()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # torch.tensor(.., device) as a copy from the host, which it is
    torch.__future__.set_overwrite_module_params_on_conversion(
        True
    )  # else a module keeps its own tensors
    group = patch.object(
        torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(grouped)
    )
    cuda = patch.multiple(
        torch.cuda, Event=Event, Stream=Stream, stream=stream, current_stream=Stream, synchronize=lambda *_: note("synchronize"),
        memory_allocated=lambda *_: 0, max_memory_allocated=lambda *_: 0, memory_reserved=lambda *_: 0,
        reset_peak_memory_stats=lambda *_: None, mem_get_info=lambda *_: (1 << 40, 1 << 40), get_device_name=lambda *_: "none",
    )  # fmt: skip
    NOTES.clear()
    try:
        with group, cuda, Pretended():
            yield NOTES
    finally:
        torch._C._set_only_lift_cpu_tensors(lift)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
