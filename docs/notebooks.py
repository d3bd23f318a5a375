"""Writes docs/notebooks/*.ipynb from tutorials: `python docs/notebooks.py`.

Text becomes Markdown cells, Python code cells, and commands of a shell lines with `!`. A block
whose first line names a file, such as ``# mine.py``, writes that file.
"""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = ("1-first-images", "3-own-method", "5-vsd-critic")
NOTE = re.compile(r"^\*This page as a \[notebook\].*\n\n", re.M)


def cells(text: str) -> list[tuple[str, str]]:
    """Kind and source of each cell of a page."""
    found = []
    parts = re.split(r"^(```(?:python|sh)\n.*?^```)$", NOTE.sub("", text), flags=re.M | re.S)
    for part in parts:
        fenced = re.fullmatch(r"```(python|sh)\n(.*)\n```", part, re.S)
        if fenced is None:
            # siblings of the page are not siblings of the notebook
            part = re.sub(r"\]\((\d[\w-]*\.md)", r"](../tutorials/\1", part.strip())
            found += [("markdown", part)] if part else []
        elif fenced[1] == "sh":
            found.append(("code", "\n".join(f"!{line}" for line in fenced[2].splitlines())))
        elif named := re.match(r"# ([\w-]+\.py)\n", fenced[2]):
            found.append(("code", f"%%writefile {named[1]}\n{fenced[2]}"))
        else:
            found.append(("code", fenced[2]))
    return found


def notebook(page: Path) -> str:
    """The notebook of a page, without outputs, as JSON."""
    listed = []
    for number, (kind, source) in enumerate(cells(page.read_text(encoding="utf-8"))):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        listed.append(cell | {"source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    content = {"cells": listed, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DOCS / "notebooks").mkdir(exist_ok=True)
    for name in PAGES:
        text = notebook(DOCS / "tutorials" / f"{name}.md")
        (DOCS / "notebooks" / f"{name}.ipynb").write_text(text, encoding="utf-8")
