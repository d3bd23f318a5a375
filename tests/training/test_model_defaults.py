"""Options that are left out: the papers', or those tuned on the embedded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.config.discovery import choices
from limbeck.distillation.timesteps.deterministic import LinearTimesteps
from limbeck.distillation.timesteps.random import TwoStageTimesteps
from limbeck.distillation.weights import LambdaWeight, UniformWeight
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load
from limbeck.representations.latents import Latents
from limbeck.runs.edit_options import default_options
from limbeck.training import model_defaults
from limbeck.training.experiment import Experiment
from limbeck.training.model_defaults import default_experiment, embedded_defaults

PROMPTS = ("a red mug",)
PLAIN = Experiment(PROMPTS)


def tuned(name: str, option: str) -> float:
    return embedded_defaults()[name]["method"][option]


@pytest.mark.parametrize("name", sorted(embedded_defaults()))
def test_every_entry_is_an_experiment_of_its_method(name: str) -> None:
    e = default_experiment(PROMPTS, {"method": name})
    assert type(e.method) is choices(Method)[name]
    assert e != Experiment(PROMPTS, method=choices(Method)[name]())


def test_the_embedded_model_has_a_guidance_of_its_own() -> None:
    e = default_experiment(PROMPTS, {})
    assert e.method == SDS(tuned("sds", "guidance")) != SDS()


@pytest.mark.parametrize("name", ["SDS", {"name": "sds", "reference": "x0"}, None])
@pytest.mark.parametrize("model", ["world", {"name": "world"}, {"lora": "some.safetensors"}])
def test_names_and_options_choose_the_same(name, model) -> None:
    e = default_experiment(PROMPTS, {"method": name, "model": model})
    assert e == default_experiment(PROMPTS, {})


def test_learning_rates_of_latents_are_for_latents(monkeypatch) -> None:
    options = {"sds": {"method": {"guidance": 9.0}, "representation": {"lr": 0.07}}}
    monkeypatch.setattr(model_defaults, "embedded_defaults", lambda: options)
    e = default_experiment(PROMPTS, {})
    assert (e.method, e.representation) == (SDS(9.0), Latents(0.07))
    e = default_experiment(PROMPTS, {"representation": "pixels"})
    assert (e.method, e.representation) == (SDS(9.0), Latents())


@pytest.mark.parametrize(
    "chosen",
    [
        {"model": "some/folder"},
        {"method": "mine.py:Mine"},
        {"method": VSD()},
        {"method": "no-such-method"},
    ],
)
def test_others_keep_the_options_of_the_papers(chosen) -> None:
    assert default_experiment(PROMPTS, chosen) == PLAIN


PLANE = str(Path(__file__).parents[2] / "examples" / "plane_prior.py")


@pytest.mark.parametrize(
    "model",
    [
        "gaussians",
        {"name": "gaussians-flow"},
        "dataset:some/folder",
        f"{PLANE}:Plane",
        PLANE,
        load("gaussians"),
    ],
    ids=str,
)
def test_exact_priors_have_guidance_1(model) -> None:
    e = default_experiment(PROMPTS, {"method": "vsd", "model": model})
    assert e.method == VSD(guidance=1.0) != VSD()
    assert replace(e, method=PLAIN.method) == PLAIN
    for method in ("csd", "dds"):  # without a guidance scale, and an edit
        assert default_experiment(PROMPTS, {"method": method, "model": model}) == PLAIN


@pytest.mark.parametrize("method", ["dmd2", "f-distill", "sid", "sim"])
def test_directions_with_a_size_of_their_own_get_no_weight(method) -> None:
    assert default_experiment(PROMPTS, {"method": method}).weight == UniformWeight()
    e = default_experiment(PROMPTS, {"method": method, "model": "some/folder"})
    assert e.weight == UniformWeight()


def test_trace_has_the_times_and_the_weight_of_its_code() -> None:
    e = default_experiment(PROMPTS, {"method": "trace"})
    times = TwoStageTimesteps(t_max=0.7, late_t_max=0.5, switch_at=0.41)
    assert (e.weight, e.timesteps) == (UniformWeight(), times)


def test_jsd_has_the_times_and_the_weight_of_its_code() -> None:
    e = default_experiment(PROMPTS, {"method": "jsd"})
    assert (e.weight, e.timesteps) == (LambdaWeight(), LinearTimesteps())


@pytest.mark.parametrize("method", ["flow-edit", "flow-align"])
def test_solvers_of_edits_have_the_options_of_limbeck_edit_on_the_embedded_model(method) -> None:
    e = default_experiment(PROMPTS, {"method": method})
    edit = default_options(type(e.method))
    names = ("method", "steps", "timesteps", "weight", "optimizer")
    assert [getattr(e, name) for name in names] == [getattr(edit, name) for name in names]
    assert e.representation == Latents(edit.lr)
    large = default_experiment(PROMPTS, {"method": method, "model": "some/folder"})
    assert (large.method, large.steps) == (type(e.method)(), PLAIN.steps)


@pytest.mark.parametrize("method", ["dds", "sdedit", "lusd"])
def test_other_edits_have_only_their_guidance(method) -> None:
    e = default_experiment(PROMPTS, {"method": method})
    assert e.method == default_options(type(e.method)).method != type(e.method)()
    assert replace(e, method=PLAIN.method) == PLAIN
