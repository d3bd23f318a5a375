"""The command line, sweeps and Python leave out the same options and get the same experiment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import limbeck
from limbeck import api
from limbeck.cli.commands import run
from limbeck.config.discovery import component_name
from limbeck.methods.sds import SDS
from limbeck.sweeps.expansion import Sweep
from limbeck.sweeps.planned_runs import plan_runs
from limbeck.training.experiment import Experiment
from limbeck.training.model_defaults import default_experiment, embedded_defaults

PROMPT = "a red mug"


def of_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path, **options: str) -> Experiment:
    seen: list[Experiment] = []
    monkeypatch.setattr(run, "run_one", lambda experiment, *rest, **more: seen.append(experiment))
    monkeypatch.setattr("limbeck.cli.run_folder.exit_if_incomplete", lambda folder: None)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    run.main([PROMPT, "--out", str(tmp_path / "run"), *words])
    return seen[0]


def of_a_sweep(**options: str) -> Experiment:
    (planned,) = plan_runs(Sweep(fixed={"prompts": (PROMPT,), **options}), "--")
    return planned.stages[""]


def of_python(monkeypatch: pytest.MonkeyPatch, **options: object) -> Experiment:
    monkeypatch.setattr(api, "record", lambda experiment, *rest, **more: None)
    monkeypatch.setattr(api, "choose_stage", lambda folders, *rest: folders[-1])
    monkeypatch.setattr(api, "load", lambda *rest: SimpleNamespace())
    return limbeck.distill(PROMPT, **options).experiment


@pytest.mark.parametrize("method", ["sds", "vsd", "csd"])
@pytest.mark.parametrize("representation", ["latents", "pixels"])
def test_all_doors_give_one_experiment(monkeypatch, tmp_path, method, representation) -> None:
    options = {"method": method, "representation": representation}
    wanted = of_a_sweep(**options)
    assert component_name(type(wanted.method)) == method
    if method in embedded_defaults():
        assert wanted.method == default_experiment((PROMPT,), options).method
    assert of_the_command_line(monkeypatch, tmp_path, **options) == wanted
    assert of_python(monkeypatch, **options) == wanted


def test_what_is_given_wins(monkeypatch, tmp_path) -> None:
    given = {"method": "sds", "method.guidance": "100"}
    assert of_the_command_line(monkeypatch, tmp_path, **given).method == SDS(100.0)
    assert of_python(monkeypatch, method=SDS()).method == SDS()
    other = of_the_command_line(monkeypatch, tmp_path, model="gaussians")
    assert other.method == SDS(1.0) and other.representation == Experiment((PROMPT,)).representation
