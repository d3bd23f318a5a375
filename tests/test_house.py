"""The house rules: short files, short functions, nothing hidden, no import that climbs."""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

import limbeck

ROOT = Path(limbeck.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [str(p.relative_to(ROOT)) for p in FILES]
FORBIDDEN_CALLS = {"hasattr", "nan_to_num", "nan_to_num_"}


def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text())


def imports(name: str) -> set[str]:
    """Modules of limbeck that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name} imports relatively"
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    modules = {
        ".".join(["limbeck", *Path(n).with_suffix("").parts]).removesuffix(".__init__")
        for n in NAMES
    }
    return {m.removeprefix("limbeck.") for m in found if m in modules and m != "limbeck"}


def files(head: str) -> list[str]:
    return [n for n in NAMES if n.startswith(head)]


def test_the_house_is_the_one_under_test():
    assert {
        "schedule.py",
        "prediction.py",
        "prior.py",
        "run.py",
        "methods/sds.py",
        "priors/exact.py",
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_stays_under_300_lines(name):
    assert len((ROOT / name).read_text().splitlines()) < 300


@pytest.mark.parametrize("name", files("methods/"))
def test_a_method_stays_within_40_lines(name):
    """Besides imports, blank lines and what is said of the paper: code, docstrings and comments."""
    said = {"bibtex", "passes", "backward", "moves"}
    left = {
        number
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if line.strip()
    }
    for node in ast.walk(tree(name)):
        paper = (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in said
        )
        if paper or isinstance(node, ast.Import | ast.ImportFrom):
            left -= set(range(node.lineno, node.end_lineno + 1))
    assert len(left) <= 40


@pytest.mark.parametrize("name", NAMES)
def test_a_function_stays_within_60_lines(name):
    long = {
        n.name: n.end_lineno - n.lineno + 1
        for n in ast.walk(tree(name))
        if isinstance(n, ast.FunctionDef)
    }
    assert not {k: v for k, v in long.items() if v > 60}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_guessed_hidden_or_unpickled(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            called = (
                node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            )
            assert called not in FORBIDDEN_CALLS, f"{name}:{node.lineno} calls {called}"
            assert not (
                called == "load"
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func) == "torch.load"
            ), f"{name}:{node.lineno}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            assert not {n.split(".")[0] for n in named} & {
                "pickle",
                "cPickle",
                "dill",
                "cloudpickle",
            }, f"{name}:{node.lineno}"


@pytest.mark.parametrize(("name", "may"), [
    ("schedule.py", set()), ("prediction.py", {"schedule"}), ("prior.py", {"schedule", "prediction"}),
    ("timestep.py", {"schedule"}), ("noise.py", {"method", "prior", "inversion"}), ("gradient.py", {"schedule"}),
    ("weights.py", {"schedule"}), ("memory.py", set()), ("inversion.py", {"prior", "schedule"}), ("baseline.py", {"schedule"}),
    ("camera.py", set()), ("views.py", {"camera"}),
    ("method.py", {"schedule", "prediction", "prior", "camera"}), ("representation.py", {"prior", "camera", "views", "solid"}),
    ("solid.py", set()), ("encoding.py", set()), ("decoder.py", set()), ("blob.py", set()), ("occupancy.py", set()),
    ("triangles.py", {"tiles"}), ("tetrahedra.py", {"tiles", "triangles"}), ("raster.py", {"camera", "tiles", "triangles"}),
    ("colour.py", {"encoding", "decoder"}),
    ("background.py", {"decoder", "world", "world.scene"}),
    *((name, {"encoding"}) for name in files("encodings/") if "__init__" not in name),
])  # fmt: skip
def test_the_algebra_knows_nobody_above_it(name, may):
    assert imports(name) <= may


@pytest.mark.parametrize("name", files("timesteps/"))
def test_timesteps_know_the_algebra_only(name):
    assert not [
        m
        for m in imports(name)
        if m.split(".")[0] not in ("schedule", "weights", "timestep", "timesteps")
    ]


@pytest.mark.parametrize("name", files("methods/"))
def test_methods_know_no_representation_and_no_concrete_prior(name):
    assert not [
        m
        for m in imports(name)
        if m.split(".")[0]
        in ("representation", "representations", "priors", "run", "experiment", "world")
    ]


@pytest.mark.parametrize("name", files("methods/"))
def test_a_method_knows_no_camera(name):
    """What is optimised may be a picture or a solid: a method cannot tell."""
    assert not imports(name) & {"camera", "views"}
    assert not [
        n for n in ast.walk(tree(name)) if isinstance(n, ast.Attribute) and n.attr == "camera"
    ]


@pytest.mark.parametrize("name", ["projection.py", *files("projections/")])
def test_projections_know_no_method_and_no_representation(name):
    above = (
        "methods",
        "critics",
        "representation",
        "representations",
        "run",
        "experiment",
        "sample",
        "record",
        "report",
        "metrics",
    )
    assert not [m for m in imports(name) if m.split(".")[0] in above]


@pytest.mark.parametrize("name", files("priors/"))
def test_priors_know_no_method_and_no_representation(name):
    above = (
        "method",
        "methods",
        "critics",
        "representation",
        "representations",
        "run",
        "experiment",
        "record",
        "report",
        "cli",
        "metrics",
    )
    assert not [m for m in imports(name) if m.split(".")[0] in above]


@pytest.mark.parametrize("name", files("representations/"))
def test_representations_know_no_method_and_no_concrete_prior(name):
    above = (
        "method",
        "methods",
        "critics",
        "priors",
        "run",
        "experiment",
        "record",
        "report",
        "cli",
        "metrics",
    )
    assert not [m for m in imports(name) if m.split(".")[0] in above]


@pytest.mark.parametrize(
    "name",
    [
        "run.py",
        "experiment.py",
        "sample.py",
        "critic.py",
        *files("critics/"),
        "projection.py",
        *files("projections/"),
    ],
)
def test_the_loop_knows_no_front_end(name):
    assert not [
        m
        for m in imports(name)
        if m.split(".")[0] in ("cli", "options", "plot", "report", "record", "sweep", "doctor")
    ]


def test_importing_the_algebra_wakes_no_model_library():
    import subprocess
    import sys

    code = "import limbeck.training.trainer, sys; print([m for m in ('diffusers', 'transformers', 'peft', 'matplotlib') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert out.stdout.strip() == "[]"


def test_torchvision_is_absent_or_works():
    if importlib.util.find_spec("torchvision") is not None:
        importlib.import_module("torchvision")


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "tests"])
def test_no_script_hides_a_module_of_the_standard_library(folder):
    """A script's folder is on the path of what it starts: PyTorch writes no vector code where its trial of it cannot start."""
    names = {path.stem for path in (Path(__file__).parents[1] / folder).glob("*.py")}
    assert names and not names & sys.stdlib_module_names
