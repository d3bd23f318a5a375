"""A run is extended where its steps are those of the longer run, else it says what to do."""

import inspect
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image
from run_folders import assert_same_run, experiment, metrics_lines, record_run

from limbeck.cli.main import main
from limbeck.config.discovery import choices
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.gradient_transforms import Clip
from limbeck.distillation.noise import IndependentNoise
from limbeck.distillation.timesteps.deterministic import LinearTimesteps
from limbeck.distillation.timesteps.random import NStageTimesteps, TwoStageTimesteps
from limbeck.methods.base import Method
from limbeck.methods.bridge import Bridge
from limbeck.methods.csd import CSD
from limbeck.methods.ism import ISM
from limbeck.methods.vsd import VSD
from limbeck.representations.nerf import NeRF
from limbeck.runs import recorder
from limbeck.training.extension import dependence_on_steps
from limbeck.training.optimizers import Adam

CONSTANT_6 = experiment(steps=6, optimizer=Adam(1.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": Adam(1.0)},
        {"optimizer": Adam(1.0), "method": VSD(7.5, critic=SmallUNetCritic(width=8))},
        {"optimizer": Adam(0.95)},
    ],
)
def test_a_longer_run_goes_on_as_if_it_had_been_started_so(
    changes: dict[str, object], tmp_path: Path
) -> None:
    """A learning rate that falls after 95 % of 8 or 12 steps has not fallen in the first 8."""
    short, long = experiment(steps=8, **changes), experiment(**changes)
    record_run(short, tmp_path / "run", image_every=4)
    assert (tmp_path / "run" / "profile.json").exists()
    text = record_run(long, tmp_path / "run", image_every=4)[1]
    record_run(long, tmp_path / "whole", image_every=4)
    assert "continuing after step 8 of 12" in text
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert (tmp_path / "run" / "run.yaml").read_text() == (
        tmp_path / "whole" / "run.yaml"
    ).read_text()
    assert "nothing to do" in record_run(long, tmp_path / "run")[1]


def test_fewer_steps_than_done_are_refused(tmp_path: Path) -> None:
    record_run(experiment(steps=4), tmp_path)
    with pytest.raises(ValueError, match="has taken 4 steps, 3 are fewer: use --steps 4 or more"):
        record_run(experiment(steps=3), tmp_path)
    assert [line["step"] for line in metrics_lines(tmp_path)] == [1, 2, 3, 4]


def test_a_run_that_was_stopped_can_end_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = recorder.Recorder._step

    def stopped(self: recorder.Recorder, *args: object) -> None:
        step(self, *args)
        if self.run.step == 5:
            self.save()
            self.writer.drain()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            record_run(replace(CONSTANT_6, steps=12), tmp_path / "run", image_every=6)
    record_run(CONSTANT_6, tmp_path / "run", image_every=6)
    record_run(CONSTANT_6, tmp_path / "whole", image_every=6)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


LINEAR_CRITIC = SmallUNetCritic(width=8, training=CriticTraining(timesteps=LinearTimesteps()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"timesteps": LinearTimesteps()}, "t would have been different in the first 50 steps"),
        ({"timesteps": TwoStageTimesteps()}, "t would have been different"),
        ({"timesteps": NStageTimesteps()}, "t would have been different"),
        ({"optimizer": Adam(0.5)}, "the learning rate would have been different"),
        (
            {"grad_transform": Clip(start_value=2.0, end_value=8.0)},
            "the gradient transform would have been different",
        ),
        ({"method": ISM()}, "the update rule would have been different"),
        ({"method": CSD(negative_prompt="a blue ring")}, "the update rule would have been"),
        ({"method": Bridge()}, "the update rule would have been different"),
        ({"method": VSD(7.5, critic=LINEAR_CRITIC)}, "t would have been different"),
        ({"representation": NeRF()}, "a 3D representation changes"),
        ({"optimizer": Adam()}, "the learning rate would have been different"),
    ],
)
def test_schedules_over_the_run_cannot_be_extended(changes: dict[str, object], reason: str) -> None:
    old = experiment(**{"steps": 50, "optimizer": Adam(1.0)} | changes)
    assert reason in dependence_on_steps(old, replace(old, steps=60), 50)
    assert not dependence_on_steps(old, replace(old, steps=60), 0) or "3D" in reason


@dataclass(frozen=True)
class OwnNoise(IndependentNoise):
    """Noise that could read the number of steps."""


def test_noise_of_ones_own_may_read_the_number_of_steps() -> None:
    old = experiment(steps=5, optimizer=Adam(1.0), noise=OwnNoise())
    assert "is your own and may use" in dependence_on_steps(old, replace(old, steps=10), 5)
    old = experiment(steps=5, optimizer=Adam(1.0), noise=IndependentNoise())
    assert dependence_on_steps(old, replace(old, steps=10), 5) == ""


def test_methods_that_read_the_number_of_steps_state_their_schedule() -> None:
    pattern = r"inputs\.steps|\.steps\b(?!_)|euler_step\("
    for cls in choices(Method).values():
        reads = re.search(pattern, inspect.getsource(cls.__call__))
        stated = cls.step_schedule is not Method.step_schedule
        assert bool(reads) == stated, cls


@pytest.mark.parametrize("kind", ["inpainting", "pixels"])
def test_a_representation_that_refuses_images_starts_over(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = tmp_path / "white.png", tmp_path / "run"
    Image.new("RGB", (24, 24), "white").save(path)
    run = ["run", "red disc", "--model", "gaussians", "--device", "cpu", "--timesteps", "linear"]
    run += ["--representation", kind, "--out", str(folder)]
    if kind == "pixels":
        run += ["--representation.init-std", "0.1"]
    else:
        run += ["--representation.inner.images", str(path), "--representation.masks", str(path)]
    assert main([*run, "--steps", "2"]) == 0
    capsys.readouterr()
    assert main([*run, "--steps", "3"]) == 2
    command = capsys.readouterr().err.strip().rpartition("to start over: limbeck ")[2]
    assert main(shlex.split(command)) == 0


def test_what_to_do_instead_is_a_command_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "red disc", "--model", "gaussians", "--device", "cpu", "--timesteps", "linear"]
    folder = tmp_path / "run"
    assert main([*run, "--steps", "4", "--out", str(folder)]) == 0
    capsys.readouterr()
    assert main([*run, "--steps", "6", "--out", str(folder)]) == 2
    line = capsys.readouterr().err.strip()
    assert "cannot go on from 4 to 6 steps: the learning rate would have" in line
    command = line.rpartition(": limbeck ")[2]
    assert "--steps 2 " in command and "\n" not in line
    words = shlex.split(command)
    assert main(words) == 0
    assert len(metrics_lines(Path(words[words.index("--out") + 1]))) == 2
