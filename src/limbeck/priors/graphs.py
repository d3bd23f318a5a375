"""A frozen network as compiled graphs: one for each shape of input, with gradients or without, for each set of adapters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch._dynamo
from torch import Tensor, nn

from limbeck.priors.adapters import Rows

LIMIT = 64  #: graphs of one network; PyTorch gives up at 8, and a run with pictures, edits and a critic has more shapes


class Graphs:
    """Calls a network through ``torch.compile``: fixed shapes, and an error where a call does not become one whole graph.

    made: graphs so far. seconds: of the calls that made them, to be told apart from a run's own.
    """

    def __init__(self, network: nn.Module, rows: Rows, compile: Literal["on", "graphs"]):
        self.made, self.seconds, self.plain = 0, 0.0, False
        self._network, self._replayed = network, compile == "graphs"

        def whole(*inputs: Any, **more: Any) -> Tensor:
            # Graphs are checked against what they read: without this line, one made before there were adapters would pass for one
            # with them, since PyTorch looks at hooks only while it makes a graph.
            _ = rows.owner is None
            return network(*inputs, **more)[0]

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, LIMIT)
        mode = "reduce-overhead" if self._replayed else None
        self._compiled = torch.compile(whole, fullgraph=True, dynamic=False, mode=mode)

    def __call__(self, *inputs: Any, **more: Any) -> Tensor:
        if self.plain:
            return self._network(*inputs, **more)[0]
        before, start = torch._dynamo.utils.counters["stats"]["unique_graphs"], time.perf_counter()
        if self._replayed:
            torch.compiler.cudagraph_mark_step_begin()
        out: Tensor = self._compiled(*inputs, **more)
        new = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
        if new:
            self.made += new
            self.seconds += time.perf_counter() - start
        # a replay writes over what the last one answered
        return out.clone() if self._replayed else out

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While it is open the network is called as it is: for hooks that look inside."""
        self.plain = True
        try:
            yield
        finally:
            self.plain = False
