"""The fenced blocks of a page: code and commands to run, and the files that it shows."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.md"))


class Block(NamedTuple):
    """A fenced block; `file` is the name in its first line, such as ``# mine.py``, or empty."""

    language: str
    text: str
    file: str


def blocks(page: Path, *languages: str) -> list[Block]:
    found = []
    text = page.read_text(encoding="utf-8")
    for language, body in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        if language in languages:
            named = re.match(r"# ([\w-]+\.(?:py|yaml))\n", body)
            found.append(Block(language, body, named[1] if named else ""))
    return found


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows, as its reader does."""
    for block in blocks(page, "python", "yaml"):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
