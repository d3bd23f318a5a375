"""What a run that the Studio has started prints, kept in a file of its folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MAX_BYTES = 1 << 19  #: a longer file is cut to its first line and its end
_KEPT = 1 << 17  #: bytes of the end that are kept
_SHOWN = 6000  #: bytes of the end that are shown
_PROMPT = "$ "  #: stands before the command in the first line
_CUT = b"[...]\n"
_LAST_LINE = re.compile(r"\[exit code (-?\d+)\]")


def is_failure(code: int) -> bool:
    """Whether an exit code is that of an error; a stop by a signal is none.

    Args:
        code: as the process has ended: 0, 1 to 127, 128 plus a signal, or minus a signal.
    """
    return 0 < code < 128


class RunOutput(NamedTuple):
    """The file: the command, all that its process prints, and its exit code.

    Attributes:
        path: the file.
    """

    path: Path

    def begin(self, words: Sequence[str]) -> None:
        """Replace what an earlier process has printed by the command of a new one.

        Args:
            words: the command.

        Raises:
            ValueError: if the file is not one of these.
        """
        if self.path.is_file() and not self.words:
            raise ValueError(f"{self.path} exists and is not overwritten: move it elsewhere")
        line = " ".join(shlex.join(words).splitlines())
        self.path.write_text(f"{_PROMPT}{line}\n", encoding="utf-8")

    def end(self, code: int) -> None:
        """Note how the process has ended."""
        self.shorten()
        if self.path.is_file():  # unless its folder was deleted meanwhile
            with self.path.open("ab") as file:
                file.write(f"\n[exit code {code}]\n".encode())

    def shorten(self) -> None:
        """Cut a file that is too long; the process may write on, as it appends."""
        if not self.path.is_file() or self.path.stat().st_size <= MAX_BYTES:
            return
        with self.path.open("r+b") as file:
            first = file.readline()
            file.seek(-_KEPT, 2)
            end = file.read().partition(b"\n")[2]
            file.seek(0)
            file.write(first[:_KEPT] + _CUT + end)
            file.truncate()

    @property
    def words(self) -> list[str]:
        """The words of the command; empty if the file does not begin with one."""
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8", errors="replace") as file:
            line = file.readline(_KEPT)
        try:
            return shlex.split(line.removeprefix(_PROMPT)) if line.startswith(_PROMPT) else []
        except ValueError:  # written by something else
            return []

    @property
    def exit_code(self) -> int | None:
        """How the process has ended; None while it runs, and if the Studio ended before it."""
        found = _LAST_LINE.fullmatch(self.tail.rpartition("\n")[2])
        return int(found[1]) if found else None

    @property
    def tail(self) -> str:
        """The end of the file, of a progress bar the last state of each line."""
        if not self.path.is_file():
            return ""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _SHOWN, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")
        shown = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]
        return "\n".join(shown[size > _SHOWN and len(shown) > 1 :]).strip()

    @property
    def last_line(self) -> str:
        """What the process has printed last, in one line; empty if it has printed nothing."""
        lines = [line for line in self.tail.splitlines() if line]
        printed = [n for n in lines if not n.startswith(_PROMPT) and not _LAST_LINE.fullmatch(n)]
        return printed[-1] if printed else ""
