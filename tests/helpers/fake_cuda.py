"""A fake GPU: tensors on the CPU that report ``cuda:0``, and a record of every synchronization.

It shows where a step would wait on CUDA, and where tensors of host and device meet; it says nothing
about speed.
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
#: operations that return numbers, or a shape that depends on them
SYNCHRONIZING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten.is_nonzero,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten._linalg_check_errors,
}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
CROSS_DEVICE = (Tensor.copy_,)  #: operations that take tensors of host and GPU


class FunctionDepth(threading.local):
    """Number of nested torch functions of this thread that were given a GPU tensor."""

    value = 0


depth = FunctionDepth()


class FakeCudaTensor(Tensor):
    """A tensor of the fake GPU, whose values are in ``on_host``.

    To torch's own code it is on the CPU, so that autograd asks for no driver.
    """

    device, is_cuda, is_cpu = GPU, True, False

    @staticmethod
    def __new__(cls, on_host: Tensor) -> FakeCudaTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            on_host.shape,
            strides=on_host.stride(),
            storage_offset=on_host.storage_offset(),
            dtype=on_host.dtype,
        )

    def __init__(self, on_host: Tensor):
        self.on_host = on_host

    def __repr__(self) -> str:
        return f"FakeCudaTensor({self.on_host})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (Tensor.cpu, Tensor.to, Tensor.type_as, Tensor.cuda):
            return _move(*args, **({"device": HOST} if func is Tensor.cpu else {}), **kwargs)
        if func is Tensor.tolist:
            note("tolist")
            return args[0].on_host.tolist()
        # torch's own helpers begin with an underscore
        is_public = not func.__name__.startswith("_")
        if not depth.value and is_public and func not in CROSS_DEVICE:
            _check_devices(func, args, kwargs)
        # with an explicit device it is clear where the result belongs
        nested = int(kwargs.get("device") is None)
        depth.value += nested
        try:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        finally:
            depth.value -= nested

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _execute(func, args, kwargs or {})


def _check_devices(func, args, kwargs) -> None:
    """Raise RuntimeError where CUDA would; scalars of the host are allowed everywhere."""
    on_host = [
        x
        for x in tree_leaves((args, kwargs))
        if isinstance(x, Tensor) and not isinstance(x, FakeCudaTensor) and x.ndim
    ]
    if on_host:
        raise RuntimeError(
            f"{func}: a host tensor of shape {tuple(on_host[0].shape)} with tensors of the GPU"
        )


def _move(x, *args, device=None, dtype=None, non_blocking=False, memory_format=None, copy=False):
    """``Tensor.to``, which torch would skip, because to it both devices are the CPU."""
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


def _execute(func, args, kwargs):
    """Execute an operation on the CPU, note synchronizations, and wrap results of the GPU."""
    packet = func._overloadpacket
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    on_gpu = any(isinstance(x, FakeCudaTensor) for x in tensors)
    in_backward = torch._C._current_graph_task_id() != -1
    target = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if on_gpu:
        _note_synchronization(func, packet, args, kwargs, target)
    elif packet is aten._to_copy and target == "cuda" and not kwargs.get("non_blocking"):
        note("a blocking copy to the GPU")
    host_kwargs = dict(kwargs)
    if kwargs.get("device") is not None:
        host_kwargs["device"] = HOST
    if "pin_memory" in kwargs:
        host_kwargs["pin_memory"] = False
    out = func(*tree_map(_on_host, args), **tree_map(_on_host, host_kwargs))
    if func._schema.is_mutable and out is not None and isinstance(args[0], Tensor):
        return args[0]
    # torch's own code makes what it needs on the CPU, where it takes the GPU's tensors to be
    is_internal = (on_gpu or not tensors) and (in_backward or depth.value)
    if target == "cuda" or is_internal or (on_gpu and target is None):
        return tree_map(_on_gpu, out)
    return out


def _on_host(x):
    return x.on_host if isinstance(x, FakeCudaTensor) else x


def _on_gpu(x):
    is_plain = isinstance(x, Tensor) and not isinstance(x, FakeCudaTensor)
    return FakeCudaTensor(x) if is_plain else x


def _note_synchronization(func, packet, args, kwargs, target) -> None:
    is_repeat = func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
    if packet in SYNCHRONIZING or is_repeat:
        note(str(func))
    elif packet in INDEXING and isinstance(args[0], FakeCudaTensor):
        for index in (i for i in args[1] if i is not None):
            if index.dtype in (torch.bool, torch.uint8):
                note(f"{func} by a mask")
            elif not isinstance(index, FakeCudaTensor) and index.ndim:
                note(f"{func} by indices on the host")
    elif packet is aten._to_copy and target == "cpu" and not depth.value:
        note("a copy to the host")
    elif packet is aten.copy_:
        _note_copy(args)


def _note_copy(args) -> None:
    """Note a copy between host and GPU, unless non-blocking to the GPU or in another thread."""
    to_gpu, from_gpu = (isinstance(x, FakeCudaTensor) for x in args[:2])
    if to_gpu == from_gpu:
        return
    non_blocking = len(args) > 2 and args[2]
    if not (non_blocking and (to_gpu or not _in_main_thread())):
        note("a copy between host and GPU")


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


#: synchronizations by the main thread: what, and where in the library
NOTES: list[tuple[str, str]] = []


def note(what: str) -> None:
    if not _in_main_thread():
        return
    frame = sys._getframe(1)
    while frame.f_back is not None and "/limbeck/" not in frame.f_code.co_filename:
        frame = frame.f_back
    NOTES.append((what, f"{frame.f_code.co_filename.split('/limbeck/')[-1]}:{frame.f_lineno}"))


class FakeEvent:
    """``torch.cuda.Event``: everything is done at once, and only waiting for it is noted."""

    def __init__(self, *args, **kwargs):
        pass

    def record(self, *args) -> None:
        pass

    def wait(self, *args) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: FakeEvent) -> float:
        return 0.0

    def synchronize(self) -> None:
        note("an event that is waited for")


class FakeStream(FakeEvent):
    """``torch.cuda.Stream``."""

    def wait_event(self, event: FakeEvent) -> None:
        pass

    def record_event(self) -> FakeEvent:
        return FakeEvent()


@contextmanager
def fake_stream(_):
    yield


class FakeCudaMode(TorchDispatchMode):
    """While it is active there is a GPU, for the thread that entered it."""

    # so that torch asks for no driver when something is made on a device
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _execute(func, args, kwargs or {})


FAKE_CUDA = {
    "Event": FakeEvent,
    "Stream": FakeStream,
    "stream": fake_stream,
    "current_stream": FakeStream,
    "synchronize": lambda *_: note("synchronize"),
    "memory_allocated": lambda *_: 0,
    "max_memory_allocated": lambda *_: 0,
    "memory_reserved": lambda *_: 0,
    "reset_peak_memory_stats": lambda *_: None,
    "mem_get_info": lambda *_: (1 << 40, 1 << 40),
    "get_device_name": lambda *_: "none",
}


@contextmanager
def gpu() -> Iterator[list[tuple[str, str]]]:
    """A fake GPU, ``cuda:0``, and the list of synchronizations since it was entered."""
    by_device = torch.optim.Optimizer._group_tensors_by_device_and_dtype

    def grouped(lists, with_indices=False):
        groups = by_device(lists, with_indices)
        return {
            (next(x for x in group[0][0] if x is not None).device, key[1]): group
            for key, group in groups.items()
        }

    lift = torch._C._only_lift_cpu_tensors()
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._ensureCUDADeviceGuardSet()
    # torch.tensor(.., device) becomes a copy from the host, which it is
    torch._C._set_only_lift_cpu_tensors(True)
    # else a module keeps its own tensors
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    optimizer_groups = patch.object(
        torch.optim.Optimizer, "_group_tensors_by_device_and_dtype", staticmethod(grouped)
    )
    NOTES.clear()
    try:
        with optimizer_groups, patch.multiple(torch.cuda, **FAKE_CUDA), FakeCudaMode():
            yield NOTES
    finally:
        torch._C._set_only_lift_cpu_tensors(lift)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
