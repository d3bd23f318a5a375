"""The file error.txt: the error that stopped a run, in one line. The next session removes it."""

from __future__ import annotations

import traceback
from pathlib import Path

from limbeck.config.own_errors import own_code_error
from limbeck.system.files import one_line, read_text, write_text

ERROR_FILE = "error.txt"
_MAX_LENGTH = 600  #: characters of an error; advice stands at the end of a message


def error_summary(error: Exception) -> str:
    """The message of an error, and where it comes from if it was not raised for the user."""
    error = own_code_error(error) or error
    if isinstance(error, ValueError | OSError | RuntimeError | MemoryError):
        return one_line(error, _MAX_LENGTH)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__}: {one_line(error, _MAX_LENGTH)} ({where})"


def write_error(folder: Path, error: Exception) -> None:
    """Write the error that stopped a run."""
    write_text(folder / ERROR_FILE, error_summary(error) + "\n")


def read_error(folder: Path) -> str:
    """The error that stopped a run; empty if none did."""
    path = folder / ERROR_FILE
    return read_text(path).strip() if path.exists() else ""
