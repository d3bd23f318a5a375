"""Every command on a page is understood by the command line, up to where its model is loaded."""

import re
import shlex
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm
from own_meshes import mapped_box
from page_blocks import TUTORIALS, write_files
from PIL import Image

from limbeck.cli.main import main
from limbeck.config.discovery import choices
from limbeck.config.yaml import to_yaml
from limbeck.representations.generator import Generator
from limbeck.runs.loggers import Logger
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    """The indented or fenced lines that start with ``limbeck``, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    names = "run|edit|sample|study|sweep|plot|eval|bench|export|view|train-world"
    return re.findall(rf"^(?:    )?(?:\$ )?limbeck ((?:{names}) .+)$", text, re.M)


#: words of a page that stand for others
PLACEHOLDERS = {"...": [], "[OPTIONS]": []}
COMMANDS = [
    pytest.param(command, id=f"{page.relative_to(ROOT)}: {command[:60]}")
    for page in PAGES
    if page.name != "LOG.md"
    for command in commands(page)
]


METHOD = """from dataclasses import dataclass
from limbeck.methods.dds import DDS
from limbeck.methods.sds import SDS

@dataclass(frozen=True)
class MyMethod(SDS):
    pass


@dataclass(frozen=True)
class MyEdit(DDS):
    pass
"""


class LoadingError(Exception):
    """Raised where a command would load its model or start its work."""


def stop(*arguments, **options):
    raise LoadingError


def block_on_page(name: str, language: str) -> str:
    """The file that a page of docs/ shows."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.search(rf"```{language}\n(.*?)```", text, re.S).group(1)


def write_named_files() -> None:
    """Write the files and folders that pages name into the current folder."""
    Path("study.yaml").write_text(block_on_page("sweeps.md", "yaml"), encoding="utf-8")
    Path("rows.yaml").write_text(block_on_page("leaderboard-3d.md", "yaml"), encoding="utf-8")
    Path("runs/RUN").mkdir(parents=True)
    Path("duck").mkdir()
    experiment = to_yaml(Experiment(("a red mug",)))
    Path("runs/RUN/run.yaml").write_text(experiment, encoding="utf-8")
    for sweep in ("runs/SWEEP", "runs/ablations"):
        Path(sweep).mkdir()
        (Path(sweep) / "sweep.yaml").write_text("prompts: [a red mug]\nseeds: [0, 1]\n")
    Path("runs/GENERATOR").mkdir()
    experiment = to_yaml(Experiment(("a red mug",), representation=Generator()))
    Path("runs/GENERATOR/run.yaml").write_text(experiment, encoding="utf-8")
    own = METHOD + block_on_page("loggers.md", "python") + block_on_page("own-method.md", "python")
    Path("mine.py").write_text(own, encoding="utf-8")
    for page in TUTORIALS:
        write_files(page, Path())
    Path("examples").symlink_to(ROOT / "examples")


@pytest.fixture
def stopped(monkeypatch, tmp_path):
    """A folder with the files that pages name; commands stop when all is understood."""
    import limbeck.cli.commands.eval
    import limbeck.leaderboard.assets.folder
    import limbeck.leaderboard.edits.folder
    import limbeck.leaderboard.exact_priors.conduct
    import limbeck.leaderboard.images.conduct
    import limbeck.priors.loading
    import limbeck.runs.reopen
    import limbeck.runs.report.schedule_plots
    import limbeck.sweeps.engines.ray_cluster
    import limbeck.sweeps.engines.slurm_cluster
    import limbeck.sweeps.optuna_study
    import limbeck.sweeps.sweep_checks
    import limbeck.training.resources
    import limbeck.world.multi_view_options
    import limbeck.world.training_options

    replaced = []

    def replace(module, name, new):
        replaced.append((name, getattr(module, name), new))
        monkeypatch.setattr(module, name, new)

    monkeypatch.setenv("PATH", FakeSlurm(tmp_path / "slurm").path)
    clusters = (limbeck.sweeps.engines.ray_cluster, limbeck.sweeps.engines.slurm_cluster)
    for module in (*clusters, limbeck.sweeps.optuna_study):
        replace(module, "require_package", lambda package: None)
    monkeypatch.chdir(tmp_path)
    replace(limbeck.training.resources, "check_weights_fit", stop)
    replace(limbeck.priors.loading, "load", stop)
    replace(limbeck.leaderboard.images.conduct, "check_leaderboard", stop)
    replace(limbeck.leaderboard.edits.folder, "write_edit_leaderboard", stop)
    replace(limbeck.leaderboard.exact_priors.conduct, "check_exact_leaderboard", stop)
    replace(limbeck.leaderboard.assets.folder, "check_runs", stop)
    replace(limbeck.priors.loading, "notify_unknown_words", lambda *a: None)
    for name in ("best_stage", "last_stage"):
        replace(limbeck.runs.reopen, name, stop)
    replace(limbeck.world.training_options, "open_training", stop)
    replace(limbeck.world.multi_view_options, "open_multi_view_training", stop)
    for kind in ("folders", "2d", "3d"):
        replace(limbeck.cli.commands.eval, f"_evaluate_{kind}", stop)
    for study in choices(Study).values():
        monkeypatch.setattr(study, "run", stop)
    replace(limbeck.sweeps.sweep_checks, "check_sweep", stop)
    write_named_files()
    monkeypatch.setattr(Logger, "check_package", lambda self: None)
    yield tmp_path
    monkeypatch.undo()
    # modules that were first imported meanwhile have taken the replacements by name
    for module in [own for name, own in sys.modules.items() if name.startswith("limbeck")]:
        for name, old, new in replaced:
            if vars(module).get(name) is new:
                setattr(module, name, old)


def test_pages_have_commands():
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_a_page_is_understood(command, stopped):
    words = shlex.split(command, comments=True)
    words = [new for word in words for new in PLACEHOLDERS.get(word, [word])]
    for word in words:
        if word.endswith((".png", ".jpg")):
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (32, 32), "white")
            image.paste("red", (8, 8, 24, 24))
            image.save(word)
        if word.endswith(".glb") and words[0] != "export":
            mapped_box().export(word)
    if words[0] in ("eval", "export", "view"):  # any run will do
        for word in words:
            if word.startswith(("runs/", "samples/", "RUN")) and not Path(word).exists():
                shutil.copytree("runs/RUN", word)
    for flag, word in pairwise(words):
        if flag == "--generator" and not Path(word).exists():
            shutil.copytree("runs/GENERATOR", word)
    if words[0] == "plot":
        assert main(words) == 0
        return
    with pytest.raises(LoadingError):
        main(words)
