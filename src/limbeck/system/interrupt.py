"""Ctrl-C between steps, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class CtrlC:
    """While open, Ctrl-C is only noted, so that a checkpoint is never taken of half a step; a second one breaks at once."""

    heard = False

    def __enter__(self) -> CtrlC:
        self.old: Any = None
        # signals reach only the main thread, and one that is ignored (nohup) stays ignored
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):
            self.old = signal.signal(signal.SIGINT, self._hear)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard:
            raise KeyboardInterrupt
        self.heard = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.old is not None:
            signal.signal(signal.SIGINT, self.old)
