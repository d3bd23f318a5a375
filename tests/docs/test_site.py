"""The site's sources: every page is reached, every relative link has a target, one version."""

import os
import re
import runpy
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

import limbeck
from limbeck.config.discovery import choices
from limbeck.training.presets.base import Preset

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *ROOT.glob("C*.md"), *sorted(DOCS.rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of headings as GitHub and MyST make them, and those given in HTML."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    found = set(re.findall(r'<a id="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(slug.replace(" ", "-"))
    return found


def broken_links(page: Path) -> list[str]:
    broken = []
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / unquote(path)) if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_have_targets(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n\n[1](#a-title) [2](#b) [3](no.md) [4](page.md#a-title)\n", "utf-8")
    assert broken_links(page) == ["#b", "no.md"]


def uneven_rows(page: Path) -> list[str]:
    """Rows of tables with another number of cells than the first row: a | wants a backslash."""
    uneven, cells = [], None
    for line in re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S).splitlines():
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        cells = found if cells is None or found is None else cells
        if found != cells:
            uneven.append(line)
    return uneven


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_rows_of_a_table_have_equally_many_cells(page):
    assert uneven_rows(page) == []


def test_an_uneven_row_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("| a | b |\n|---|---|\n| \\|x\\| | 1 |\n| |x| | 2 |\n\n| c |\n", "utf-8")
    assert uneven_rows(page) == ["| |x| | 2 |"]


def contents_entries(page: Path) -> set[str]:
    entries = set()
    for body in re.findall(r"^```\{toctree\}\n(.*?)^```", text_of(page), re.M | re.S):
        for line in body.splitlines():
            if line.strip() and not line.startswith(":"):
                entries.add(re.sub(r"^.*<(.+)>$", r"\1", line.strip()))
    return entries


def test_every_entry_of_the_contents_is_a_page():
    entries = contents_entries(DOCS / "index.md") - {"ALL OTHER PAGES"}
    assert len(entries) > 25
    assert [e for e in entries if not (DOCS / f"{e}.md").is_file()] == []


def test_pages_are_picked_up_without_being_named(monkeypatch):
    """Every folder has an index that lists what is in it, and this one has a place for others."""
    assert "ALL OTHER PAGES" in contents_entries(DOCS / "index.md")
    folders = {path.parent for path in DOCS.rglob("*.md")} - {DOCS}
    for folder in sorted(folders):
        if "_build" not in folder.parts:
            assert "*" in contents_entries(folder / "index.md"), folder
            relative = (folder / "index").relative_to(DOCS).as_posix()
            assert relative in contents_entries(DOCS / "index.md")


def test_the_tables_of_methods_are_those_of_the_code():
    maker = runpy.run_path(str(DOCS / "method_tables.py"))
    page = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    assert page == maker["index"](), "run python docs/method_tables.py"
    num_pages = len(list((DOCS / "methods").glob("*.md"))) - 2  # without index and identities
    assert page.count("\n| [") == num_pages


def test_the_table_of_presets_is_that_of_the_code():
    maker = runpy.run_path(str(DOCS / "preset_tables.py"))
    page = (DOCS / "presets" / "index.md").read_text(encoding="utf-8")
    assert page == maker["index"](), "run python docs/preset_tables.py"
    num_pages = len(list((DOCS / "presets").glob("*.md"))) - 1  # without the index
    assert page.count("\n| [") == num_pages


def test_the_table_of_editing_defaults_is_that_of_the_code():
    maker = runpy.run_path(str(DOCS / "editing_tables.py"))
    page = (DOCS / "editing.md").read_text(encoding="utf-8")
    assert page == maker["page"](), "run python docs/editing_tables.py"


def test_the_page_of_recipes_names_every_3d_preset():
    (row,) = re.findall(r"^\| `--preset` \| .*$", text_of(DOCS / "3d-recipes.md"), re.M)
    named = set(re.findall(r"\[([\w-]+)\]\(presets/\1\.md\)", row))
    assert named == {name for name in choices(Preset) if name != "one-step"}


# Release files


def workflow(name: str) -> dict:
    return yaml.safe_load(text_of(ROOT / ".github" / "workflows" / name))


THE_TAG_IS_THE_VERSION = 'test -f "dist/limbeck-${GITHUB_REF_NAME#v}-py3-none-any.whl"'
WORKFLOWS = sorted(path.name for path in (ROOT / ".github" / "workflows").iterdir())
TARGETS = set(re.search(r"^\.PHONY: (.+)$", text_of(ROOT / "Makefile"), re.M)[1].split())


def commands(name: str) -> set[str]:
    jobs = workflow(name)["jobs"].values()
    return {step["run"] for job in jobs for step in job["steps"] if "run" in step}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_say_what_the_makefile_says(name):
    for command in commands(name) - {THE_TAG_IS_THE_VERSION}:
        make, target = command.split()
        assert make == "make" and target in TARGETS, command
    assert workflow(name)["permissions"] == {"contents": "read"}
    assert True in workflow(name)  # YAML 1.1 reads the key `on` as true


def test_the_workflow_runs_what_ci_run_runs_on_every_python():
    last = text_of(ROOT / ".ci" / "run").splitlines()[-1]
    assert last in commands("ci.yml")
    assert {"make lint", "make docs", "make wheel"} <= commands("ci.yml")
    versions = workflow("ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    project = text_of(ROOT / "pyproject.toml")
    assert versions == re.findall(r"Python :: (3\.\d+)", project)
    assert f'requires-python = ">={versions[0]}"' in project


def test_lint_has_all_checks_of_the_house():
    recipe = re.search(r"^lint: .*?\n\n", text_of(ROOT / "Makefile"), re.M | re.S)[0]
    for tool in ("ruff check", "ruff format --check", "lint-imports", "mypy", "codespell"):
        assert tool in recipe


@pytest.mark.parametrize(("tag", "is_published"), [("v1.2.0", True), ("v1.2", False)])
def test_a_tag_publishes_its_own_version_only(tag, is_published, tmp_path):
    steps = workflow("release.yml")["jobs"]["build"]["steps"]
    order = [step.get("run", step.get("uses", "").partition("@")[0]) for step in steps]
    assert order[-3:] == ["make wheel", THE_TAG_IS_THE_VERSION, "actions/upload-artifact"]
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "limbeck-1.2.0-py3-none-any.whl").touch()
    environment = {**os.environ, "GITHUB_REF_NAME": tag}
    shell = ["bash", "-ec", THE_TAG_IS_THE_VERSION]
    found = subprocess.run(shell, cwd=tmp_path, env=environment, check=False)
    assert (found.returncode == 0) is is_published


def test_publishing_needs_no_token():
    publish = workflow("release.yml")["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert "secrets." not in text_of(ROOT / ".github" / "workflows" / "release.yml")


def test_the_version_is_written_in_one_place():
    assert 'dynamic = ["version"]' in text_of(ROOT / "pyproject.toml")
    citation = yaml.safe_load(text_of(ROOT / "CITATION.cff"))
    assert citation["version"] == limbeck.__version__
    assert f"## {limbeck.__version__}" in text_of(ROOT / "CHANGELOG.md")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_issue_templates_are_forms():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(text_of(path))
        if path.name == "config.yml":
            continue
        assert {"name", "description", "body"} <= set(form)
        ids = [part["id"] for part in form["body"]]
        assert len(set(ids)) == len(ids)


def test_the_image_is_built_from_the_sources_and_the_tested_versions():
    text = text_of(ROOT / "Dockerfile")
    assert "pip install $(grep '^torch==' /src/constraints.txt)" in text
    assert "pip install -c /src/constraints.txt" in text
    lines = text_of(ROOT / ".dockerignore").splitlines()
    shown = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines  # all others are hidden
    assert shown == {"LICENSE", "README.md", "constraints.txt", "pyproject.toml", "src"}
    assert all((ROOT / name).exists() for name in shown)


def test_the_builds_of_pytorch_are_of_the_tested_version_and_from_one_index():
    (version,) = re.findall(r"^torch==(\S+)$", text_of(ROOT / "constraints.txt"), re.M)
    install = text_of(DOCS / "install.md")
    assert set(re.findall(r"pip install torch(\S*) --index-url", install)) == {f"=={version}"}
    addresses = re.findall(r"whl/(\w+)", install + text_of(ROOT / "Dockerfile"))
    assert len(set(addresses)) == 2 and "cpu" in addresses  # the other one is CUDA's
