"""A frozen network as compiled graphs: one for each shape of input, with gradients or without, for each set of adapters."""

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

_RECOMPILE_LIMIT = 64  #: graphs of one network; PyTorch gives up at 8, and a run with pictures, edits and a critic has more shapes


class CompileTimer:
    """Adds to ``meter`` the seconds in which PyTorch makes graphs: those of a backward pass too, which are made at its first."""

    def __init__(self, meter: NetworkCallCounter):
        self._meter, self._since = meter, 0.0
        callback_handler.register_start_callback(self._begun)
        callback_handler.register_end_callback(self._done)

    def _begun(self, _: CallbackArgs) -> None:
        self._since = time.perf_counter()

    def _done(self, _: CallbackArgs) -> None:
        self._meter.compile_seconds += time.perf_counter() - self._since

    def close(self) -> None:
        callback_handler.remove_start_callback(self._begun)
        callback_handler.remove_end_callback(self._done)


def can_vectorize_on_cpu() -> bool:
    """Whether PyTorch writes vector code for this CPU, which it tries in a process of its own; a warning where it does not."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    found = bool(pick_vec_isa())
    if not found:
        warnings.warn(
            "compile: PyTorch could not build and load vector code for this CPU, and graphs without it are slower than none. Is a "
            "C++ compiler there, and does no file in a folder of sys.path bear the name of a module of the standard library?",
            stacklevel=2,
        )
    return found


class CompiledNetwork:
    """Calls a network through ``torch.compile``: fixed shapes, and an error where a call does not become one whole graph.

    Their number and the seconds that they took are ``meter.graphs`` and ``meter.warming``. Where operations are counted, the
    network is called as it is: a graph would hide them.
    """

    def __init__(
        self,
        network: nn.Module,
        rows: AdapterRows,
        compile: Literal["on", "graphs"],
        meter: NetworkCallCounter,
    ):
        self.call_counter, self.bypass = meter, False
        weakref.finalize(self, CompileTimer(meter).close)
        self._network, self._replayed = network, compile == "graphs"

        def whole(*inputs: Any, **more: Any) -> Tensor:
            # Graphs are checked against what they read: without this line, one made before there were adapters would pass for one
            # with them, since PyTorch looks at hooks only while it makes a graph.
            _ = rows.owner is None
            return network(*inputs, **more)[0]

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILE_LIMIT)
        options: dict[str, Any] | None = None
        if next(network.parameters()).device.type == "cpu" and can_vectorize_on_cpu():
            # Said aloud it is part of the name of a graph kept on disk, so that one made without vectors does not pass for it.
            options = {"cpp.vec_isa_ok": True}
        mode = "reduce-overhead" if self._replayed else None
        self._compiled = torch.compile(
            whole, fullgraph=True, dynamic=False, mode=mode, options=options
        )

    def __call__(self, *inputs: Any, **more: Any) -> Tensor:
        if self.bypass or _get_current_dispatch_mode() is not None:
            return self._network(*inputs, **more)[0]
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        if self._replayed:
            torch.compiler.cudagraph_mark_step_begin()
        out: Tensor = self._compiled(*inputs, **more)
        self.call_counter.compiled_graphs += (
            torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
        )
        # a replay writes over what the last one answered
        return out.clone() if self._replayed else out

    @contextmanager
    def bypassed(self) -> Iterator[None]:
        """While it is open the network is called as it is: for hooks that look inside."""
        self.bypass = True
        try:
            yield
        finally:
            self.bypass = False
