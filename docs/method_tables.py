"""Writes the tables of docs/methods/index.md from the methods: `python docs/method_tables.py`."""

from pathlib import Path

from limbeck.cli.commands.methods import group, paper
from limbeck.config.discovery import choices
from limbeck.methods.base import Method

METHODS = Path(__file__).parent / "methods"
INDEX = METHODS / "index.md"
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def escape(text: str) -> str:
    """A text as the cell of a table."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def tables() -> str:
    """One table per group of methods: page, summary, passes and paper of each."""
    groups: dict[str, list[str]] = {}
    for name, cls in choices(Method).items():
        page = f"[{name}]({name}.md)" if (METHODS / f"{name}.md").is_file() else name
        summary = escape((cls.__doc__ or "").strip().splitlines()[0])
        row = f"| {page} | {summary} | {escape(cls.passes)} | {paper(cls.bibtex)} |"
        groups.setdefault(group(cls), []).append(row)
    parts = []
    for title in sorted(groups):
        head = "| method | direction | passes per particle and step | paper |\n|---|---|---|---|\n"
        parts.append(f"## {title.split(maxsplit=1)[1]}\n\n{head}" + "\n".join(groups[title]))
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """The page with the tables of today."""
    before, rest = INDEX.read_text(encoding="utf-8").split(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    INDEX.write_text(index(), encoding="utf-8")
