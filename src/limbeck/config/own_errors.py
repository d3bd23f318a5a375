"""Errors inside a file of one's own, said in one line with file, line and function."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from limbeck.config.discovery import OWN_MODULE
from limbeck.system.finite import NonFiniteError
from limbeck.system.out_of_memory import is_out_of_memory


def own_code_error(error: Exception) -> ValueError | None:
    """The error for the user, if the code of a file given as FILE.py:Class is where it occurred.

    Args:
        error: what was raised.

    Returns:
        An error whose message has the innermost line of such a file; None if there is no such
        line, or if the error is about memory, numbers or a missing package, which have messages.
    """
    if isinstance(error, NonFiniteError | ModuleNotFoundError) or is_out_of_memory(error):
        return None
    entries = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(OWN_MODULE)
    ]
    if not entries:
        return None
    code, line = entries[-1]
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError):  # which is written for the user in most places
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ValueError(f"{code.co_filename}:{line}, in {code.co_qualname}: {text}")


@contextmanager
def naming_own_code() -> Iterator[None]:
    """Raise errors that occur in a file of one's own as ``own_code_error`` says them."""
    try:
        yield
    except Exception as error:
        if (named := own_code_error(error)) is not None:
            raise named from error
        raise
