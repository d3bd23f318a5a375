"""The command line: one verb per thing to do. What a user can get wrong ends in one line and exit code 2, never in a traceback."""

from __future__ import annotations

import ast
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from limbeck import __version__
from limbeck.cli.run_folder import STOPPED
from limbeck.system.out_of_memory import is_out_of_memory, out_of_memory_advice

# torch and its kin take seconds to import: every verb imports what it needs, so that --help and --version answer at once

BAD_INPUT = 2
USAGE = """usage: limbeck VERB [OPTIONS]

Score distillation: optimise what can be rendered under a frozen diffusion model.

{verbs}

  limbeck VERB --help     the options of a verb; with --method NAME those of that method
  limbeck --version

LIMBECK_TRACEBACK=1 in the environment shows where an error comes from.
"""
ORDER = (
    "run",
    "sample",
    "edit",
    "study",
    "report",
    "plot",
    "methods",
    "models",
)  #: of the usage; others follow


def verbs() -> dict[str, str]:
    """The verbs, each a file of ``verbs/``, and the line that says what it does."""
    files = {
        p.stem.replace("_", "-"): p
        for p in Path(__file__).with_name("commands").glob("*.py")
        if p.stem != "__init__"
    }
    names = [name for name in ORDER if name in files] + sorted(set(files) - set(ORDER))
    return {
        name: ast.get_docstring(ast.parse(files[name].read_text(encoding="utf-8"))) or ""
        for name in names
    }


def told(error: Exception) -> str:
    """An error in one line that says what it is about."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed: pip install {error.name}; limbeck doctor lists what is optional"
    if is_out_of_memory(error):
        return out_of_memory_advice(text)
    if not isinstance(error, OSError):
        return text
    if error.errno == errno.ENOSPC:
        return f"the disk is full: {text}. Make room; the same command goes on from the last checkpoint"
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else text


def foreseen(error: Exception) -> bool:
    """Whether an error says something about the input rather than about a defect of the program."""
    if isinstance(error, ModuleNotFoundError):
        return not (error.name or "limbeck").startswith("limbeck")
    if isinstance(error, ValueError | OSError) or is_out_of_memory(error):
        return True
    if not isinstance(error, RuntimeError):
        return False
    from limbeck.system.finite import NonFiniteError
    from limbeck.training.collapse import DegenerateRunError

    return isinstance(error, NonFiniteError | DegenerateRunError)


def dispatch(argv: Sequence[str]) -> None:
    """Do what the words say."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:12s} {told}" for name, told in verbs().items())
        print(USAGE.format(verbs=lines), end="", file=sys.stdout if argv else sys.stderr)
        raise SystemExit(0 if argv else BAD_INPUT)
    if argv[0] in ("-V", "--version"):
        print(f"limbeck {__version__}")
        return
    verb = argv[0].replace("_", "-")
    if verb not in verbs():
        from limbeck.config.discovery import unknown_name

        raise unknown_name("verb", argv[0], verbs())
    importlib.import_module(f"limbeck.cli.commands.{verb.replace('-', '_')}").main(argv[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point. Returns the exit code: 0 done, 2 for input that cannot be used, 130 after Ctrl-C."""
    try:
        dispatch(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("\nlimbeck: stopped", file=sys.stderr)
        return STOPPED
    except Exception as error:
        if os.environ.get("LIMBECK_TRACEBACK") or not foreseen(error):
            raise
        print(f"limbeck: {told(error)}", file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
