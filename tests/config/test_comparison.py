"""Whether two configurations are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.config.comparison import (
    absolute_paths,
    differences,
    distinguishing_options,
    fingerprint,
)
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.diffusion.model_options import Model
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.timesteps import TwoStageTimesteps, UniformTimesteps
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD


def test_differences_name_the_option_and_both_values() -> None:
    a = Experiment(("a",), method=VSD())
    assert differences(a, replace(a, steps=7)) == ["steps: 500 -> 7"]
    assert differences(a, replace(a, method=VSD(critic=AutoCritic(rank=2)))) == [
        "method.critic.rank: 8 -> 2"
    ]
    assert differences(a, replace(a, method=SDS())) == ["method: vsd -> sds"]
    assert differences(a, replace(a, prompts=("b",))) == ['prompts: ["a"] -> ["b"]']


def test_options_in_which_any_of_several_differ_have_a_value_for_each() -> None:
    a = Experiment(("a",), method=VSD())
    others = [replace(a, steps=7), replace(a, method=VSD(guidance=3.0)), a]
    assert distinguishing_options([a, *others]) == [
        {"steps": "500", "method.guidance": "7.5"},
        {"steps": "7", "method.guidance": "7.5"},
        {"steps": "500", "method.guidance": "3.0"},
        {"steps": "500", "method.guidance": "7.5"},
    ]


def test_options_of_a_component_are_compared_where_it_is() -> None:
    a, b = (Experiment(("a",), timesteps=UniformTimesteps(t_min)) for t_min in (0.1, 0.3))
    other = replace(a, timesteps=TwoStageTimesteps())
    first, second = ({"timesteps": "uniform", "timesteps.t_min": t_min} for t_min in ("0.1", "0.3"))
    third = {"timesteps": "two-stage"}
    assert distinguishing_options([a, b, other]) == [first, second, third]
    assert distinguishing_options([other, a, b]) == [third, first, second]
    sources = [replace(a, method=VSD(critic=critic)) for critic in (AutoCritic(), ExactCritic())]
    assert distinguishing_options([*sources, replace(a, method=SDS())]) == [
        {"method": "vsd", "method.critic": "auto"},
        {"method": "vsd", "method.critic": "exact"},
        {"method": "sds"},
    ]


def test_the_fingerprint_depends_on_every_option_and_on_no_spelling() -> None:
    a = Experiment(("a",), optimizer=SGD(momentum=0.0))
    assert fingerprint(a) == fingerprint(Experiment(("a",), optimizer=SGD(momentum=0))), (
        "0 and 0.0 are equal"
    )
    others = [
        replace(a, seed=1),
        replace(a, prompts=("b",)),
        replace(a, method=VSD()),
        replace(a, method=VSD(critic=ExactCritic())),
    ]
    assert len({fingerprint(e) for e in (a, *others)}) == 5


def test_a_configuration_is_the_same_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    experiment = Experiment(
        ("a",),
        model=Model("dataset:images", lora=Path("x.safetensors"), vae="pipe", config="pipe"),
        representation=Pixels(images=(Path("a.png"), Path("b.png"))),
        method=VSD(critic=LoRACritic(init_from=Path("critic"), model="./pipe")),
    )
    absolute = absolute_paths(experiment)
    assert absolute.model == Model(
        f"dataset:{tmp_path}/images",
        lora=tmp_path / "x.safetensors",
        vae=f"{tmp_path}/pipe",
        config=f"{tmp_path}/pipe",
    )
    assert absolute.representation.images == (tmp_path / "a.png", tmp_path / "b.png")
    assert isinstance(absolute.method, VSD) and isinstance(absolute.method.critic, LoRACritic)
    assert absolute.method.critic.init_from == tmp_path / "critic"
    assert absolute.method.critic.model == f"{tmp_path}/pipe"
    assert differences(experiment, absolute) == []
    assert fingerprint(experiment) == fingerprint(absolute)
    assert absolute_paths(absolute) == absolute
    assert from_yaml(Experiment, to_yaml(absolute)) == absolute
    for name in ("world", "gaussians", "owner/name", "owner/name@revision"):
        plain = Experiment(("a",), model=name)
        assert absolute_paths(plain) == plain
