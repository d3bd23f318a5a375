"""Notebooks are their tutorials, and run."""

import json
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MAKER = runpy.run_path(str(DOCS / "notebooks.py"))
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def test_the_notebooks_are_those_of_the_maker():
    assert [path.stem for path in NOTEBOOKS] == list(MAKER["PAGES"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_tutorial(path):
    page = DOCS / "tutorials" / f"{path.stem}.md"
    made = MAKER["notebook"](page)
    assert path.read_text(encoding="utf-8") == made, "run python docs/notebooks.py"
    assert f"notebooks/{path.name}" in page.read_text(encoding="utf-8")


def test_blocks_become_cells():
    page = "# T\n\n```sh\nlimbeck list\n```\n\nText [2](2-a.md).\n\n```python\n# m.py\nx = 1\n```\n"
    assert MAKER["cells"](page) == [
        ("markdown", "# T"),
        ("code", "!limbeck list"),
        ("markdown", "Text [2](../tutorials/2-a.md)."),
        ("code", "%%writefile m.py\n# m.py\nx = 1"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_results(path, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # with Agg a notebook shows no figure
    nbformat = pytest.importorskip("nbformat", reason="needs limbeck[docs]")
    nbclient = pytest.importorskip("nbclient", reason="needs limbeck[docs]")
    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=1800, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises at the first error
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all("Traceback" not in json.dumps(cell.outputs) for cell in code)
    shown = [out for cell in code for out in cell.outputs if "data" in out]
    assert path.stem == "3-own-method" or any(
        "image/png" in out.data or "text/html" in out.data for out in shown
    )
