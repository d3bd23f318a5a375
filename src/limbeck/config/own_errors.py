"""Errors inside a file of one's own, said in one line with file, line and function."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError
from types import CodeType, FunctionType

from limbeck.config.discovery import OWN_MODULE
from limbeck.system.finite import NonFiniteError
from limbeck.system.out_of_memory import is_out_of_memory

_GENERATED = "<string>"  #: file of the code that dataclass writes, such as of a frozen one


class OwnCodeError(ValueError):
    """A mistake in a file of one's own, not in the options."""


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
        and frame.f_code.co_filename != _GENERATED
    ]
    entries = entries or _refused_call(error)
    if not entries:
        return None
    code, line = entries[-1]
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError):  # which is written for the user in most places
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, FrozenInstanceError):
        text += "; its options are fixed: what a method keeps between steps is its state"
    return OwnCodeError(f"{code.co_filename}:{line}, in {code.co_qualname}: {text}")


def _refused_call(error: Exception) -> list[tuple[CodeType, int]]:
    """The function of one's own whose signature does not take the arguments of a call.

    Python raises such errors where the function is called, so no line of the file is on the stack.
    """
    owner, _, name = str(error).partition("()")[0].rpartition(".")
    if not isinstance(error, TypeError) or not owner:
        return []
    own = [m for key, m in sys.modules.items() if key.startswith(OWN_MODULE)]
    functions = [vars(getattr(module, owner, object)).get(name) for module in own]
    found = [f for f in functions if isinstance(f, FunctionType)]
    codes = [f.__code__ for f in found if f.__module__.startswith(OWN_MODULE)]
    return [(code, code.co_firstlineno) for code in codes]


@contextmanager
def naming_own_code() -> Iterator[None]:
    """Raise errors that occur in a file of one's own as ``own_code_error`` says them."""
    try:
        yield
    except Exception as error:
        if (named := own_code_error(error)) is not None:
            raise named from error
        raise
