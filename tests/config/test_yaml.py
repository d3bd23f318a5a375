"""YAML reads back as an equal experiment, and errors say what is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from own_component import OWN_METHOD

from limbeck.config.comparison import differences, fingerprint
from limbeck.config.discovery import find
from limbeck.config.yaml import from_yaml, read_yaml, to_yaml
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.noise import FixedPerParticleNoise, IndependentNoise
from limbeck.distillation.timesteps.deterministic import FixedTimesteps, LinearTimesteps
from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import LambdaWeight
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD, Adam

fractions = st.floats(0, 1)
texts = st.text(min_size=1).filter(lambda t: t.strip() != "")
critics = st.one_of(
    st.just(ExactCritic()),
    st.builds(
        LoRACritic,
        rank=st.integers(1, 64),
        training=st.builds(CriticTraining, lr=fractions, steps=st.integers(0, 5)),
    ),
    st.builds(SmallUNetCritic, width=st.integers(1, 8).map(lambda n: 8 * n)),
)
#: none at which a negative prompt has no use, which an experiment refuses
scales = st.floats(1.5, 1e3)
methods = st.one_of(
    st.builds(SDS, guidance=scales),
    st.builds(VSD, guidance=scales, critic_guidance=fractions, critic=critics),
)
experiments = st.builds(
    Experiment,
    prompts=st.lists(texts, min_size=1, max_size=3).map(tuple),
    negative_prompt=st.text(),
    model=texts,
    method=methods,
    representation=st.builds(Pixels, num_levels=st.integers(1, 6)),
    timesteps=st.one_of(
        st.builds(FixedTimesteps, t=fractions),
        st.builds(TwoStageTimesteps, switch_at=fractions),
        st.just(LinearTimesteps(0.1, 0.2)),
    ),
    weight=st.builds(LambdaWeight, power=st.floats(-2, 2)),
    noise=st.sampled_from([IndependentNoise(), FixedPerParticleNoise()]),
    optimizer=st.one_of(
        st.builds(Adam, eps=st.floats(1e-30, 1e-3)), st.builds(SGD, momentum=fractions)
    ),
    seed=st.integers(0, 2**32 - 1),
)


@given(experiments)
@settings(max_examples=60, deadline=None)
def test_round_trip(experiment: Experiment) -> None:
    again = from_yaml(Experiment, to_yaml(experiment))
    assert again == experiment
    assert differences(again, experiment) == []
    assert fingerprint(again) == fingerprint(experiment)


def test_yaml_is_plain() -> None:
    plain = yaml.safe_load(to_yaml(Experiment(("a mug",), method=VSD(critic=LoRACritic(rank=3)))))
    assert plain["prompts"] == ["a mug"]
    assert plain["method"]["name"] == "vsd" and plain["method"]["guidance"] == 7.5
    assert plain["method"]["critic"]["name"] == "lora" and plain["method"]["critic"]["rank"] == 3
    assert "name" not in plain["method"]["critic"]["training"], "there is only one class it can be"


def test_short_forms_and_defaults() -> None:
    assert from_yaml(Experiment, "prompts: a mug") == Experiment(("a mug",))
    assert from_yaml(Experiment, "{prompts: [a], method: vsd}") == Experiment(("a",), method=VSD())
    assert from_yaml(
        Experiment, "{prompts: [a], method: {name: V-S-D, guidance: 3}}"
    ) == Experiment(("a",), method=VSD(guidance=3.0))
    assert from_yaml(Experiment, "{prompts: [a], method: {guidance: 3}}") == Experiment(
        ("a",), method=SDS(guidance=3.0)
    )
    assert from_yaml(
        Experiment, "{prompts: [a], optimizer: {name: adam, eps: 1e-8}}"
    ) == Experiment(("a",), optimizer=Adam(eps=1e-8))


def test_a_nested_option_takes_the_default_of_its_place() -> None:
    text = "{prompts: [a], method: {name: vsd, critic: {training: {timesteps: {t_max: 0.5}}}}}"
    assert from_yaml(Experiment, text).method == VSD(
        critic=AutoCritic(training=CriticTraining(timesteps=UniformTimesteps(0.0, 0.5)))
    )


def test_own_class(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN_METHOD)
    experiment = Experiment(("a",), method=find(Method, f"{path}:Mine")(pull=0.25))
    text = to_yaml(experiment)
    assert f"{path.resolve()}:Mine" in text
    assert from_yaml(Experiment, text) == experiment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{prompts: [a], stps: 3}",
            r"no option of Experiment is called 'stps'. Did you mean steps\? Accepted: augment",
        ),
        ("{prompts: [a], steps: many}", "steps must be an integer, not 'many'"),
        ("{prompts: [a], steps: 2.5}", "steps must be an integer, not 2.5"),
        ("{prompts: [a], steps: yes}", "steps must be an integer, not True"),
        ("{prompts: [a], steps: 0}", "steps must be at least 1, not 0"),
        (
            "{prompts: [a], negative_prompt: 3}",
            "negative_prompt must be text, not 3; put text in quotes",
        ),
        (
            "{prompts: [no]}",
            r"must be a list, each text, not \[False\]; put text in quotes",
        ),
        ("{prompts: 3}", "prompts must be a list, each text, not 3"),
        ("{steps: 3}", "prompts is missing"),
        ("{prompts: []}", "a prompt is missing"),
        ("{prompts: [a], method: vsdd}", r"method: no method is called 'vsdd'. Did you mean vsd\?"),
        ("{prompts: [a], method: {name: 3}}", "method: no method is called '3'.* Accepted: .*vsd"),
        ("{prompts: [a], method: 3}", "method must be 'NAME' or"),
        (
            "{prompts: [a], method: {name: vsd, guidence: 3}}",
            r"no option of method is called 'guidence'. Did you mean guidance\?",
        ),
        (
            "{prompts: [a], method: {name: sds, critic: exact}}",
            "no option of method is called 'critic'. Accepted: guidance",
        ),
        (
            "{prompts: [a], method: {name: vsd, guidance: big}}",
            "method.guidance must be a number, not 'big'",
        ),
        (
            "{prompts: [a], method: {name: vsd, critic: {name: lora, rank: 0}}}",
            "method.critic.rank must be at least 1, not 0",
        ),
        ("{prompts: [a], timesteps: {name: fixed, t: 2}}", "timesteps.t must lie in"),
        ("just text", "maps options to values"),
        ("{a: [", "not YAML"),
        ("", "maps options to values"),
    ],
)
def test_refused_yaml(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_yaml(Experiment, text)
    assert "\n" not in str(caught.value)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with pytest.raises(ValueError, match=r"no configuration file .*run.yaml"):
        read_yaml(Experiment, path)
    path.write_text("steps: x")
    with pytest.raises(ValueError, match=r"run.yaml: prompts is missing"):
        read_yaml(Experiment, path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"run.yaml"):
        read_yaml(Experiment, path)


@pytest.mark.parametrize("word", ["on", "off", "graphs"])
def test_the_words_on_and_off_need_no_quotes(word: str) -> None:
    experiment = from_yaml(Experiment, f"{{prompts: [a], runtime: {{compile: {word}}}}}")
    assert experiment.runtime.compile == word


def test_a_number_with_a_zero_in_front_is_decimal() -> None:
    assert from_yaml(Experiment, "{prompts: [a], seed: 010}").seed == 10


def test_an_integer_and_a_float_are_the_same_configuration() -> None:
    assert fingerprint(CriticTraining(lr=1)) == fingerprint(CriticTraining(lr=1.0))
