"""A frozen network through ``torch.compile``.

There is one graph for each shape of input, with and without gradients, for each set of adapters.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.callback import CallbackArgs, callback_handler
from torch.utils._python_dispatch import _get_current_dispatch_mode

from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.priors.lora_adapters import AdapterRows

#: Graphs of one network. PyTorch gives up at 8, but a run with images, edits and a critic has more
#: input shapes.
_RECOMPILE_LIMIT = 64


class CompileTimer:
    """Adds the time that PyTorch spends compiling to a counter.

    It includes backward graphs, which are compiled at the first backward pass.

    Args:
        call_counter: its ``compile_seconds`` grow.
    """

    def __init__(self, call_counter: NetworkCallCounter):
        self._call_counter, self._started_at = call_counter, 0.0
        callback_handler.register_start_callback(self._start)
        callback_handler.register_end_callback(self._stop)

    def _start(self, _: CallbackArgs) -> None:
        self._started_at = time.perf_counter()

    def _stop(self, _: CallbackArgs) -> None:
        self._call_counter.compile_seconds += time.perf_counter() - self._started_at

    def close(self) -> None:
        """Unregister from PyTorch."""
        callback_handler.remove_start_callback(self._start)
        callback_handler.remove_end_callback(self._stop)


def can_vectorize_on_cpu() -> bool:
    """Return whether PyTorch generates vector code for this CPU; warn if it does not.

    PyTorch finds out by building a test program in a subprocess.
    """
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    found = bool(pick_vec_isa())
    if not found:
        warnings.warn(
            "compile: PyTorch could not build vector code for this CPU, and compiled code without "
            "it is slower than none. Check that a C++ compiler is installed and that no file in a "
            "folder of sys.path has the name of a module of the standard library.",
            stacklevel=2,
        )
    return found


class CompiledNetwork:
    """Calls a network through ``torch.compile``, with fixed shapes and without graph breaks.

    The number of graphs and the seconds spent on them go to ``call_counter.compiled_graphs``
    and ``call_counter.compile_seconds``. Under a dispatch mode, such as one that counts operations,
    the network is called eagerly: a graph would hide its operations.

    Args:
        network: the frozen network.
        adapter_rows: which rows of a call pass through adapters.
        compile: ``graphs`` also replays CUDA graphs.
        call_counter: counter of the prior.
    """

    def __init__(
        self,
        network: nn.Module,
        adapter_rows: AdapterRows,
        compile: Literal["on", "graphs"],
        call_counter: NetworkCallCounter,
    ):
        self.call_counter, self.bypass = call_counter, False
        weakref.finalize(self, CompileTimer(call_counter).close)
        self._network, self._cuda_graphs = network, compile == "graphs"

        def call(*inputs: Any, **options: Any) -> Tensor:
            # Guards check what a graph reads. Without this line a graph compiled before there were
            # adapters would be reused with them: PyTorch sees hooks only while it compiles.
            _ = adapter_rows.owner is None
            return network(*inputs, **options)[0]

        limit = max(torch._dynamo.config.recompile_limit, _RECOMPILE_LIMIT)
        torch._dynamo.config.recompile_limit = limit
        inductor_options: dict[str, Any] | None = None
        if next(network.parameters()).device.type == "cpu" and can_vectorize_on_cpu():
            # As an explicit option it is part of the cache key on disk, so that a graph compiled
            # without vector code is not reused.
            inductor_options = {"cpp.vec_isa_ok": True}
        self._compiled = torch.compile(
            call,
            fullgraph=True,
            dynamic=False,
            mode="reduce-overhead" if self._cuda_graphs else None,
            options=inductor_options,
        )

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        """Return the first output of the network."""
        if self.bypass or _get_current_dispatch_mode() is not None:
            return self._network(*inputs, **options)[0]
        before = _num_graphs()
        if self._cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        output: Tensor = self._compiled(*inputs, **options)
        self.call_counter.compiled_graphs += _num_graphs() - before
        # the next replay of a CUDA graph overwrites its output
        return output.clone() if self._cuda_graphs else output

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """Call the network eagerly while the context is open, so that hooks of its layers run."""
        self.bypass = True
        try:
            yield
        finally:
            self.bypass = False


def _num_graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]
