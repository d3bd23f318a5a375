"""Text files with one entry on each line."""

from __future__ import annotations

from pathlib import Path


def read_text_lines(path: Path) -> list[str]:
    """Return the lines of a text file without empty ones and those that begin with #.

    Args:
        path: the file.

    Raises:
        ValueError: if it cannot be read or has no line.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ValueError(f"cannot read {path}: {reason}; give a text file") from error
    # not splitlines: a text may hold line separators of Unicode
    lines = [line.strip() for line in text.split("\n")]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ValueError(f"{path} has no line of text: put one prompt on each line")
    return found
