"""Ctrl-C, SIGTERM and SIGHUP, which take effect between steps, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

#: what a terminal, the scheduler of a cluster and a closed connection send; Windows lacks SIGHUP
_TERMINATION = tuple(s for s in signal.Signals if s.name in ("SIGTERM", "SIGHUP"))
_SIGNALS = (signal.SIGINT, *_TERMINATION)


class Stopped(KeyboardInterrupt):
    """The process was asked to stop by a signal.

    Args:
        number: the signal.
        at_once: whether it was asked a second time, so that nothing is waited for.
    """

    def __init__(self, number: int, at_once: bool = False):
        super().__init__(signal.Signals(number).name)
        self.number, self.at_once = number, at_once


def exit_code(error: KeyboardInterrupt) -> int:
    """Exit code of a stopped process, 128 plus the signal: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (error.number if isinstance(error, Stopped) else signal.SIGINT)


def _in_main_thread() -> bool:
    """Whether this thread can handle signals."""
    return threading.current_thread() is threading.main_thread()


def _install(signals: tuple[int, ...], handler: Any) -> dict[int, Any]:
    """Set a handler and return the previous ones; a signal that is ignored (nohup) stays so."""
    handled = [n for n in signals if signal.getsignal(n) is not signal.SIG_IGN]
    return {n: signal.signal(n, handler) for n in handled}


@contextmanager
def raise_on_termination() -> Iterator[None]:
    """Raise ``Stopped`` on SIGTERM and SIGHUP, so that the process cleans up as after Ctrl-C."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    previous = _install(_TERMINATION, handle) if _in_main_thread() else {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class DeferredInterrupt:
    """Context in which Ctrl-C, SIGTERM and SIGHUP only set ``requested``.

    So no checkpoint is taken of half a step. A second signal raises ``Stopped`` at once.

    Args:
        repeated: False to let further signals pass without effect as well.

    Attributes:
        requested: number of the signal; 0 if there was none.
    """

    def __init__(self, repeated: bool = True):
        self.requested, self._repeated = 0, repeated

    def __enter__(self) -> DeferredInterrupt:
        self._previous = _install(_SIGNALS, self._handle) if _in_main_thread() else {}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and self._repeated:
            raise Stopped(number, at_once=True)
        self.requested = number

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
