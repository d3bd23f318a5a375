"""Tutorials run exactly as printed: their files, their code and their commands, in this order."""

import ast
import re
import shlex
from pathlib import Path

import matplotlib
import pytest
from page_blocks import ROOT, TUTORIALS, blocks, write_files

from limbeck.cli.main import main

#: what this machine cannot run: a large model, a cluster. Its commands are parsed by
#: tests/cli/test_commands_on_pages.py.
NOT_HERE = {"6-stable-diffusion.md", "8-clusters.md"}
CONCEPTS = ROOT / "docs" / "concepts.md"
RUN_HERE = [page for page in (*TUTORIALS, CONCEPTS) if page.name not in NOT_HERE]


def run_page(page: Path, folder: Path) -> dict:
    """Run all blocks of a page in a folder; returns the names that its code defines."""
    write_files(page, folder)
    names: dict = {"__name__": "page"}
    for block in blocks(page, "python", "sh"):
        if block.language == "python" and not block.file:
            exec(compile(block.text, page.name, "exec"), names)
        for line in block.text.splitlines() if block.language == "sh" else ():
            words = shlex.split(line, comments=True)
            assert words[0] == "limbeck", f"a test cannot run {line}"
            assert main(words[1:]) == 0, line
    return names


def test_a_tutorial_has_the_number_of_its_file_in_its_title():
    titles = [page.read_text(encoding="utf-8").splitlines()[0] for page in TUTORIALS]
    for page, title in zip(TUTORIALS, titles, strict=True):
        assert title.startswith(f"# {page.name.split('-')[0]}. "), page.name
    assert len(TUTORIALS) >= 5


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.name)
def test_the_code_of_a_tutorial_is_python_and_its_commands_are_limbeck(page):
    found = blocks(page, "python", "sh")
    assert found, "a tutorial without code"
    for block in found:
        if block.language == "python":
            ast.parse(block.text)
        else:
            assert all(line.startswith("limbeck ") for line in block.text.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_a_tutorial_runs_as_printed(page, tmp_path, monkeypatch, capsys):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)
    if page.name == "1-first-images.md":
        assert Path("runs/comparison.html").is_file()
    if page.name == "2-duck-to-blender.md":
        assert Path("duck.glb").is_file()
    if page.name == "3-own-method.md":
        assert "antithetic" in Path("runs/antithetic-sweep/report.html").read_text("utf-8").lower()
    # the pictures of a page are those that its code makes
    images = re.findall(r"images/((?:vsd|concept)-[a-z]+\.png)", page.read_text(encoding="utf-8"))
    assert all(Path(name).is_file() for name in images)
    assert images or page.name not in ("5-vsd-critic.md", "concepts.md")
