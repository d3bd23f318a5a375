"""Ctrl-C that takes effect between steps, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class DeferredInterrupt:
    """Context in which Ctrl-C only sets ``requested``.

    So no checkpoint is taken of half a step. A second Ctrl-C raises ``KeyboardInterrupt`` at once.
    """

    requested = False

    def __enter__(self) -> DeferredInterrupt:
        self._previous_handler: Any = None
        # signals reach only the main thread, and one that is ignored (nohup) stays ignored
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._previous_handler = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
