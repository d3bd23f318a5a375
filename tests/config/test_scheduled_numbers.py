"""Numbers that change over the run: their values, their text, and where they are accepted."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import dataclass, replace

import pytest

from limbeck.config.checks import check_options
from limbeck.config.command_line import parse
from limbeck.config.comparison import fingerprint
from limbeck.config.scheduled_numbers import ScheduledNumber
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.base import StatelessMethod
from limbeck.methods.esd import ESD
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("linear 100 7.5", [(0, 100), (0.25, 76.875), (1, 7.5)]),
        ("cosine 4 2", [(0, 4), (0.25, 3 + 0.5**0.5), (0.5, 3), (1, 2)]),
        ("exponential 1e-2 1e-4", [(0, 1e-2), (0.5, 1e-3), (1, 1e-4)]),
        ("15 until .5 then 7.5", [(0, 15), (0.499, 15), (0.5, 7.5), (1, 7.5)]),
        (
            "linear 100 50 until .4 then 20 until 0.6 then linear 8 4",
            [(0.2, 75), (0.3999999, 50), (0.4, 20), (0.6, 8), (0.8, 6), (1, 4)],
        ),
        ("1 until .5 then -1", [(0, 1), (1, -1)]),
    ],
)
def test_a_schedule_is_a_function_of_progress(text: str, values: list) -> None:
    number = ScheduledNumber(text)
    for progress, value in values:
        assert number.at(progress) == pytest.approx(value, rel=1e-5)
    assert float(number) == number.at(0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("linear 100", "linear takes two numbers, as in 'linear 100 7.5'"),
        ("cosine 1 2 3", "as in 'cosine 100 7.5' (with the quotes), not 'cosine 1 2 3'"),
        ("1 until .5 then exponential 2", "as in 'exponential 100 7.5' (with the quotes), not"),
        ("15 until 7", "as in 'linear 100 7.5' or '15 until .5 then 7.5', not '15 until 7'"),
        ("5 until 2 then 3", "rise between 0 and 1"),
        ("5 until .5 then 4 until .5 then 3", "rise between 0 and 1"),
        ("linear a 4", "'a' in 'linear a 4' is no number"),
        ("linear 1 nan", "'nan' in 'linear 1 nan' is no finite number"),
        ("cosine 1 2 until .3", "the last part of a schedule has no 'until'"),
        ("5 then 3", "ends with 'until FRACTION', not '5', in '5 then 3'"),
        ("exponential 1 0", "two numbers of one sign"),
        ("7 7", "a schedule has numbers or curves"),
    ],
)
def test_what_is_no_schedule_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^--method\.guidance: ") as error:
        parse([(Experiment, Experiment(("x",)))], ["--method", "sds", "--method.guidance", text])
    assert reason in str(error.value)


def test_every_curve_has_an_example_that_is_one() -> None:
    for curve in ("linear", "cosine", "exponential"):
        with pytest.raises(ValueError, match=f"{curve} takes two numbers") as error:
            ScheduledNumber(f"{curve} 1")
        example = re.findall(r"as in '([^']*)'", str(error.value))[0]
        assert str(ScheduledNumber(example)) == f"{curve} 100 7.5"


@pytest.mark.parametrize("text", ["linear 100 7.5", "0.1 until 0.25 then exponential 1e-05 1.0"])
def test_the_text_of_a_schedule_reads_back_as_the_same(text: str) -> None:
    number = ScheduledNumber(text)
    experiment = Experiment(("x",), method=VSD(number))
    read = from_yaml(Experiment, to_yaml(experiment))
    assert read == experiment and fingerprint(read) == fingerprint(experiment)
    argv = ["--method", "vsd", "--method.guidance", str(number)]
    assert parse([(Experiment, Experiment(("x",)))], argv)[0] == experiment
    assert copy.deepcopy(number) == number == pickle.loads(pickle.dumps(number))
    constant = Experiment(("x",), method=VSD(number.at(0)))
    assert constant != experiment and fingerprint(constant) != fingerprint(experiment)


def test_schedules_reach_the_training_of_a_critic() -> None:
    argv = ["--method", "vsd", "--method.critic", "lora"]
    argv += ["--method.critic.training.lr", "linear 1e-3 1e-4"]
    experiment = parse([(Experiment, Experiment(("x",)))], argv)[0]
    training = experiment.method.critic.training
    assert training == CriticTraining(ScheduledNumber("linear 1e-3 1e-4"))
    assert training.at(0.5).lr == pytest.approx(5.5e-4)
    assert replace(experiment.method, critic=LoRACritic()).at(0.5) == VSD(critic=LoRACritic())


def test_numbers_outside_of_methods_take_no_schedule() -> None:
    number = ScheduledNumber("linear 1 2")
    with pytest.raises(ValueError, match=r"optimizer\.eps must be a number, not"):
        Experiment(("x",), optimizer=Adam(eps=number))
    with pytest.raises(ValueError, match=r"--optimizer\.eps must be a number, not 'linear 1 2'"):
        parse([(Experiment, Experiment(("x",)))], ["--optimizer.eps", "linear 1 2"])
    with pytest.raises(ValueError, match=r"--method\.critic\.rank must be an integer"):
        argv = ["--method", "vsd", "--method.critic", "lora", "--method.critic.rank", "linear 1 2"]
        parse([(Experiment, Experiment(("x",)))], argv)


def test_both_ends_of_every_part_are_checked_as_constants_are() -> None:
    with pytest.raises(ValueError, match=r"method: entropy_weight must be in \[0, 1\], not 2.0"):
        Experiment(("x",), method=ESD(entropy_weight=ScheduledNumber("linear 0 2")))
    with pytest.raises(ValueError, match=r"critic.training: camera_dropout .* not 3.0"):
        dropout = CriticTraining(camera_dropout=ScheduledNumber("0 until .1 then 3"))
        Experiment(("x",), method=VSD(critic=LoRACritic(training=dropout, camera=True)))


def test_an_equality_that_is_met_between_the_ends_does_not_stop_a_run() -> None:
    method = SDS(ScheduledNumber("linear 0 2"), rescale=0.5)
    check_options(method)  # although guidance 1 refuses rescale
    assert method.at(0.5) == replace(method, guidance=0.5).at(0) or method.at(0.5).guidance == 1


def test_guidance_that_reads_the_null_prompt_at_any_step_takes_a_negative_prompt() -> None:
    Experiment(("x",), method=SDS(ScheduledNumber("1 until .5 then 7.5")), negative_prompt="y")
    with pytest.raises(ValueError, match="does not use negative_prompt"):
        Experiment(("x",), method=SDS(ScheduledNumber("linear 1 1")), negative_prompt="y")


@dataclass(frozen=True)
class OneNumber(StatelessMethod):
    number: float = 1.0
    text: str = "linear 1 2"

    def __call__(self, prior, inputs, state):
        return self.number * inputs.eps


def test_text_that_reads_as_a_schedule_stays_text() -> None:
    method = from_yaml(OneNumber, "number: linear 1 3\ntext: linear 1 2")
    assert method == OneNumber(ScheduledNumber("linear 1 3"))
    assert method.at(0.5) == OneNumber(2.0) and OneNumber(2.0).at(0.5) == OneNumber(2.0)
