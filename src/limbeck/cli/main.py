"""The command line ``limbeck COMMAND``; a user error is one line on stderr and exit code 2."""

from __future__ import annotations

import ast
import errno
import importlib
import io
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from limbeck import __version__
from limbeck.system.extras import install_command
from limbeck.system.interrupt import exit_code, raise_on_termination
from limbeck.system.launch import launched_index
from limbeck.system.notices import display_notices
from limbeck.system.out_of_memory import is_out_of_memory, out_of_memory_advice

# torch takes seconds to import: each command imports what it needs, so that --help answers at once

USER_ERROR = 2  #: exit code
USAGE = """usage: limbeck COMMAND [OPTIONS]

Score distillation: optimize anything that can be rendered under a frozen
diffusion model.

{commands}

  limbeck COMMAND --help     options of a command
  limbeck --version          version

With LIMBECK_TRACEBACK=1 in the environment, errors print their traceback.
"""
#: listed first in the usage, in this order
MAIN_COMMANDS = ("run", "sample", "edit", "sweep", "study", "report", "plot", "methods", "models")


def commands() -> dict[str, str]:
    """Each command, which is a module of ``limbeck.cli.commands``, and its docstring."""
    files = {
        path.stem.replace("_", "-"): path
        for path in Path(__file__).with_name("commands").glob("*.py")
        if path.stem != "__init__"
    }
    names = [name for name in MAIN_COMMANDS if name in files]
    return {
        name: ast.get_docstring(ast.parse(files[name].read_text(encoding="utf-8"))) or ""
        for name in [*names, *sorted(set(files) - set(names))]
    }


def describe_error(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        cure = f"{install_command(error.name or '')}; limbeck doctor lists the optional packages"
        return f"the package {error.name} is not installed: {cure}"
    if is_out_of_memory(error):
        return out_of_memory_advice(text)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text = ": ".join(filter(None, (error.filename, error.strerror)))  # without its number
        cure = "free some space; the same command resumes from the last checkpoint"
        return f"the disk is full: {text}; {cure}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return text


def is_user_error(error: Exception) -> bool:
    """Whether an error is due to the input or the machine, and not to a defect of the program."""
    if isinstance(error, ModuleNotFoundError):
        return not (error.name or "limbeck").startswith("limbeck")
    if isinstance(error, ValueError | OSError) or is_out_of_memory(error):
        return True
    if not isinstance(error, RuntimeError):
        return False
    from limbeck.system.finite import NonFiniteError
    from limbeck.training.collapse import DegenerateRunError

    return isinstance(error, NonFiniteError | DegenerateRunError)


def _named_by_file(error: Exception) -> Exception:
    """An error that is not meant for the user, by file and line if a file of one's own has it."""
    from limbeck.config.own_errors import own_code_error

    return own_code_error(error) or error


def dispatch(argv: Sequence[str]) -> None:
    """Execute the command in ``argv``."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = "\n".join(f"  {name:12s} {summary}" for name, summary in commands().items())
        print(USAGE.format(commands=lines), end="", file=sys.stdout if argv else sys.stderr)
        raise SystemExit(0 if argv else USER_ERROR)
    if argv[0] in ("-V", "--version"):
        print(f"limbeck {__version__}")
        return
    name = argv[0].replace("_", "-")
    if name not in commands():
        from limbeck.config.discovery import unknown_name

        raise unknown_name("command", argv[0], commands())
    module = importlib.import_module(f"limbeck.cli.commands.{name.replace('-', '_')}")
    asks_help = argv[1:] == ["help"] and name in ("run", "sample", "sweep")  # no prompt is meant
    module.main(["--help"] if asks_help else argv[1:])


def process_arguments() -> list[str]:
    """The words after ``limbeck``.

    Bytes that the locale cannot decode, such as "é" in the locale C, are read as UTF-8.

    Raises:
        ValueError: if a word is not UTF-8 either.
    """
    try:
        return [os.fsencode(word).decode() if _is_escaped(word) else word for word in sys.argv[1:]]
    except UnicodeDecodeError as error:
        raise ValueError(f"an argument is not text in UTF-8: {error.object!r}") from error


def _is_escaped(word: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in word)


def _print_notice(text: str) -> None:
    if launched_index() == 0:  # of several processes one speaks
        print(f"limbeck: {text}", file=sys.stderr, flush=True)


def _is_reader_gone() -> bool:
    """Whether what reads standard output has closed it; then the rest is discarded."""
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: words after ``limbeck``; None for those of the process.

    Returns:
        Exit code: 0 on success, 1 for a run without one of its products, 2 for a user error, 130
        after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or forks print a warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a locale lacks is printed as "?"
            stream.reconfigure(errors="replace")
    if launched_index() > 0:
        sys.stdout = io.StringIO()
    try:
        with raise_on_termination(), display_notices(_print_notice):
            dispatch(process_arguments() if argv is None else argv)
            sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt as stop:
        print("\nlimbeck: stopped", file=sys.stderr)
        return exit_code(stop)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_reader_gone():
            return 141  # that of SIGPIPE; limbeck list | head has nothing to complain of
        shown = error if is_user_error(error) else _named_by_file(error)
        if os.environ.get("LIMBECK_TRACEBACK") or not is_user_error(shown):
            raise
        print(f"limbeck: error: {describe_error(shown)}", file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
