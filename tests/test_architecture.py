"""Rules of the code base that the linters do not check."""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import limbeck

ROOT = Path(limbeck.__file__).parent
NAMES = [str(path.relative_to(ROOT)) for path in sorted(ROOT.rglob("*.py"))]
BASES = ("methods/__init__.py", "methods/base.py")
METHODS = [n for n in NAMES if n.startswith("methods/") and n not in BASES]
FORBIDDEN_CALLS = {"hasattr", "nan_to_num", "nan_to_num_"}


def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def test_only_the_entry_points_stand_at_the_root():
    assert {n for n in NAMES if "/" not in n} == {"__init__.py", "__main__.py", "api.py"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_stays_within_60_lines(name):
    """Code, docstrings and comments, without imports, blank lines and the citation."""
    ignored = {"bibtex", "passes", "backward", "optimizes"}
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    left = {number for number, line in enumerate(lines, 1) if line.strip()}
    for node in ast.walk(tree(name)):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        cites = isinstance(target, ast.Name) and target.id in ignored
        if cites or isinstance(node, ast.Import | ast.ImportFrom):
            left -= set(range(node.lineno, node.end_lineno + 1))
    assert len(left) <= 60


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_guessed_hidden_or_unpickled(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            short = called.split(".")[-1]
            assert short not in FORBIDDEN_CALLS, f"{name}:{node.lineno} calls {short}"
            if called == "torch.load":  # runs no code if it reads tensors only
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("weights_only") == "True", f"{name}:{node.lineno} unpickles"
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = {a.name.split(".")[0] for a in node.names}
            named.add((getattr(node, "module", "") or "").split(".")[0])
            assert not named & {"pickle", "cPickle", "dill", "cloudpickle"}, f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_no_camera(name):
    """A method works on images and on renders of 3D representations alike."""
    attributes = [n.attr for n in ast.walk(tree(name)) if isinstance(n, ast.Attribute)]
    assert "camera" not in attributes


def test_a_public_name_is_defined_in_one_file():
    homes: dict[str, set[str]] = {}
    for name in NAMES:
        for node in tree(name).body:
            defines = isinstance(node, ast.ClassDef | ast.FunctionDef)
            if defines and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(name)
    entry = {"main"}  # every command has one
    assert not {k: v for k, v in homes.items() if len(v) > 1 and k not in entry}


def test_importing_the_trainer_loads_no_model_library():
    code = (
        "import limbeck.training.trainer, sys;"
        "names = ('diffusers', 'transformers', 'peft', 'matplotlib');"
        "print([name for name in names if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_torchvision_is_absent_or_works():
    if importlib.util.find_spec("torchvision") is not None:
        importlib.import_module("torchvision")


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "tests/helpers"])
def test_no_script_hides_a_module_of_the_standard_library(folder):
    """PyTorch probes for vector instructions from the script's folder, and falls back silently."""
    names = {path.stem for path in (Path(__file__).parents[1] / folder).glob("*.py")}
    assert names and not names & sys.stdlib_module_names


PROJECT = Path(__file__).parents[1]
PAGES = [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_page_has_no_marks_of_a_merge(page):
    marks = ("<<<<<<< ", ">>>>>>> ", "=======\n")
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    assert not [line for line in lines if line.startswith(marks)]


TEXT_FUNCTIONS = {"open", "read_text", "write_text"}


@pytest.mark.parametrize("name", NAMES)
def test_text_files_are_utf8_in_every_locale(name):
    """Without an encoding Python takes that of the locale, which may lack a character."""
    for node in ast.walk(tree(name)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        is_method = isinstance(node.func, ast.Attribute) or called == "open"
        binary = any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in node.args)
        other = ast.unparse(node.func) in ("Image.open", "av.open", "logger.open", "os.open")
        if called in TEXT_FUNCTIONS and is_method and not binary and not other:
            assert any(k.arg == "encoding" for k in node.keywords), (name, node.lineno)
