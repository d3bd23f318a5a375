"""The sweeps of examples/sweeps can be run, have seeds for an interval, and are on their page."""

from pathlib import Path

import pytest

from limbeck.sweeps.planned_runs import plan_runs
from limbeck.sweeps.sweep_file import read_sweep

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "sweeps").glob("*.yaml"))


def test_there_are_sweeps():
    assert len(FILES) >= 13


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_sweep_is_ready(path: Path) -> None:
    sweep = read_sweep(path)
    runs = plan_runs(sweep)
    prompts = {text for run in runs for e in run.stages.values() for text in e.prompts}
    assert len(runs) == sweep.count
    assert len(sweep.seeds) >= 4 or (len(sweep.seeds) >= 2 and len(prompts) >= 8)
    assert path.read_text(encoding="utf-8").startswith("# ")  # the question
    page = (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert f"`{path.stem}`" in page
