"""One process at a time in a folder."""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from limbeck.system.launch import launched_index
from limbeck.system.notices import notify

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

LOCK_FILE = ".lock"
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_LOCKED_BYTE = 1 << 30  #: on Windows a locked byte cannot be read, so it lies behind the text


def _lock(file: IO[str]) -> None:
    """Lock an open file; raises OSError if another process has locked it."""
    if os.name != "nt":
        # on NFS, Linux makes of this a lock of the whole file that other machines see too
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    file.seek(_LOCKED_BYTE)  # type: ignore[unreachable,unused-ignore]
    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process during the context; it is created if it does not exist.

    Of the processes of torchrun, process 0 holds it for all, as it alone writes the folder.
    The system releases the lock when the process ends, however it ends. The file ``.lock`` stays.

    Args:
        folder: the folder.

    Raises:
        ValueError: if another process, or this one, holds it.
    """
    if launched_index() > 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        _acquire(file, folder)
        with suppress(OSError):  # the text is for messages only
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield


def holder_has_ended(folder: Path) -> bool:
    """Whether the last process that held a folder was one of this machine and does not exist.

    Nothing is locked, so that a process that starts meanwhile is not refused.
    """
    path = folder / LOCK_FILE
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found = re.fullmatch(r"process (\d+) on (.+)", text.strip())
    if found is None or found[2] != platform.node() or os.name == "nt":
        return False
    try:
        os.kill(int(found[1]), 0)  # no signal: only whether it exists
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def refuse_folder_in_use(folder: Path) -> None:
    """Check early that nobody holds a folder; nothing is created.

    Raises:
        ValueError: if another process holds it, or if it is a file.
    """
    path = folder / LOCK_FILE
    if folder.is_file():
        raise ValueError(f"{folder} is a file: name another folder with --out")
    if path.is_file() and launched_index() == 0:  # others may find the lock of their process 0
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return  # nobody writes there: it may be an archive that holds a finished run
        with file:
            _acquire(file, folder)


def _acquire(file: IO[str], folder: Path) -> None:
    try:
        _lock(file)
    except OSError as error:
        if error.errno not in _BUSY:
            reason = error.strerror or type(error).__name__
            notify(
                f"{folder} cannot be locked ({reason}): do not start the same command there twice"
            )
            return
        file.seek(0)
        holder = file.read(200).strip() or "another process"
        raise ValueError(
            f"{folder} is in use by {holder}: wait until it ends or stop it, or name another "
            "folder with --out"
        ) from error
