"""The wheel alone runs the README's first command.

The wheel is installed into a new environment. What it requires is linked from the environment of
the tests, so that no network is needed; optional packages are not.
"""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

import limbeck

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: what the environment does not get: optional packages and tools, and the checkout itself
HIDDEN = ["numba", "peft", "sentencepiece", "xatlas", "trimesh", "av", "viser", "prdc"]
HIDDEN += [
    "vendi_score",
    "torchmetrics",
    "nicegui",
    "optuna",
    "ray",
    "submitit",
    "tensorboard",
    "wandb",
]
HIDDEN += ["sphinx", "pytest", "_pytest", "hypothesis", "beartype", "limbeck", "_limbeck"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*command, str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def make_environment(wheel: Path, folder: Path, shown: set[str] = frozenset()) -> Path:
    """An environment with the wheel, and of the optional packages only those that are shown."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    hidden = set(HIDDEN) - shown
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        name = re.split(r"[-.]", entry.name)[0].lower()
        if name not in hidden and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An environment with the wheel, and without optional packages."""
    return make_environment(wheel, tmp_path_factory.mktemp("environment"))


def packages_of(extra: str) -> set[str]:
    """Names of the packages of an extra, as they are imported."""
    requirements = PROJECT["optional-dependencies"][extra]
    return {re.split(r"[><=\[]", name)[0].replace("-", "_") for name in requirements}


def run(environment: Path, folder: Path, *command: str) -> str:
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    variables["HF_HUB_OFFLINE"] = "1"
    words = [str(environment / "bin" / command[0]), *command[1:]]
    done = subprocess.run(
        words, cwd=folder, env=variables, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_its_types_and_its_weights(wheel):
    assert wheel.name.startswith(f"limbeck-{limbeck.__version__}-")
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "limbeck/py.typed" in names
    assert any(n.startswith("limbeck/world/weights/") for n in names)
    assert not any(n.startswith(("tests/", "docs/")) for n in names)
    assert wheel.stat().st_size < 100e6  # PyPI's limit
    extras = set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M))
    assert extras == set(PROJECT["optional-dependencies"])


def test_the_wheel_is_what_is_imported_and_optional_packages_are_hidden(environment, tmp_path):
    code = "import limbeck, importlib.util as u; print(limbeck.__file__)"
    assert str(environment) in run(environment, tmp_path, "python", "-c", code)
    doctor = run(environment, tmp_path, "limbeck", "doctor")
    assert "absent, optional" in doctor and limbeck.__version__ in doctor


def test_the_first_command_of_the_readme_runs_without_extras(environment, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Command line") :]
    first = re.search(r"^(limbeck run .+)$", section, re.M)[1]
    run(environment, tmp_path, *shlex.split(first, comments=True))
    (report,) = tmp_path.glob("runs/*/report.html")
    assert "striped red mug" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "extra", ["world", "lora", "mesh", "view", "ui", "optuna", "ray", "slurm", "log"]
)
def test_the_wheel_runs_with_each_extra_alone(wheel, extra, tmp_path):
    """Its packages are found, those of the other extras are not, and a run works."""
    shown = packages_of(extra)
    missing = [name for name in shown if find_spec(name) is None]
    if missing:
        pytest.skip(f"the environment of the tests lacks {', '.join(missing)}")
    environment = make_environment(wheel, tmp_path / "environment", shown)
    doctor = run(environment, tmp_path, "limbeck", "doctor")
    states = {name: state for state, name in re.findall(r"^ *(ok|absent) +(\S+)", doctor, re.M)}
    optional = (set(HIDDEN) - {"limbeck"} | shown) & set(states)
    assert {name for name in optional if states[name] == "ok"} == shown & set(states)
    command = ["run", "a striped red mug", "--method", "sds", "--steps", "2", "--out", "mug"]
    run(environment, tmp_path, "limbeck", *command)
    assert (tmp_path / "mug" / "report.html").is_file()
