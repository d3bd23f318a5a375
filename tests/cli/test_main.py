"""The command line as a user meets it: what runs, what it says when it cannot, and the code it leaves with."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from own_component import MINE
from refusals import refused

import limbeck
import limbeck.runs.recorder
import limbeck.runs.report.pages
from limbeck.cli.commands.report import Reporting
from limbeck.cli.commands.run import Watched
from limbeck.cli.main import main
from limbeck.cli.run_folder import default_folder
from limbeck.config.command_line import described, parse
from limbeck.config.yaml import read_yaml
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import LambdaWeight, Weight
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD

TOY = ("--model", "gaussians", "--device", "cpu", "--steps", "2")


def experiment_of(*argv: str, default: Experiment | None = None) -> Experiment:
    return parse([(Experiment, default), (Watched, None)], argv, "limbeck run", "", "prompts")[0]


def environment() -> dict[str, str]:
    """Of a shell in another folder, where this very source is imported."""
    assert limbeck.__file__ is not None
    return os.environ | {
        "PYTHONPATH": str(Path(limbeck.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }


def shell(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], cwd=cwd, capture_output=True, text=True, env=environment()
    )


# what is understood


@pytest.mark.parametrize(
    "line",
    [
        "--steps 7 a --method vsd b --method.guidance 3 --method.critic=exact --timesteps two-stage --particles 4 --seed 1",
        "--method.critic=exact --method.guidance=3 --seed=1 a --timesteps=TwoStage --particles=4 --method=VSD b --steps 7",
    ],
)
def test_options_in_any_order(line: str) -> None:
    wanted = Experiment(
        ("a", "b"),
        method=VSD(guidance=3.0, critic=ExactCritic()),
        timesteps=TwoStageTimesteps(),
        particles=4,
        steps=7,
        seed=1,
    )
    assert experiment_of(*line.split()) == wanted


def test_a_method_takes_its_own_defaults() -> None:
    assert experiment_of("a", "--method", "vsd").method == VSD()
    assert (
        experiment_of("a", "--method", "vsd", default=Experiment(("x",), method=SDS(3.0))).method
        == VSD()
    )


def test_a_configuration_gives_the_defaults() -> None:
    default = Experiment(("x",), method=VSD(guidance=3.0, critic=LoRACritic(rank=2)), steps=9)
    assert experiment_of(default=default) == default
    changed = experiment_of("--method.critic-guidance", "2", "--seed", "5", default=default)
    assert changed == Experiment(
        ("x",),
        method=VSD(guidance=3.0, critic_guidance=2.0, critic=LoRACritic(rank=2)),
        steps=9,
        seed=5,
    )
    assert experiment_of("y", default=default).prompts == ("y",)
    assert experiment_of("--method", "vsd", default=default) == default, (
        "naming what it already is changes nothing"
    )


def test_deep_options_and_spellings() -> None:
    argv = [
        "a",
        "--method",
        "vsd",
        "--method.critic.learning.times.high",
        ".5",
        "--method.critic_guidance",
        "2",
    ]
    assert experiment_of(*argv).method == VSD(
        critic_guidance=2.0,
        critic=AutoCritic(learning=CriticTraining(times=UniformTimesteps(0.0, 0.5))),
    )


def test_values_that_begin_with_a_hyphen() -> None:
    assert experiment_of("a", "--method.guidance", "-3").method == SDS(-3.0)
    assert experiment_of("a", "--negative-prompt=--blurred").negative_prompt == "--blurred"
    assert experiment_of("a", "--negative-prompt", "").negative_prompt == ""
    assert experiment_of("--steps", "3", "--", "--odd prompt", "b").prompts == ("--odd prompt", "b")
    assert experiment_of("a=b", "-", "-3 degrees").prompts == ("a=b", "-", "-3 degrees")
    assert experiment_of(
        "a", "--optimizer", "sgd", "--optimizer.momentum", "1e-3"
    ).optimizer == SGD(momentum=1e-3)


def test_the_last_of_two_counts() -> None:
    assert experiment_of(
        "a", "--steps", "3", "--steps", "4", "--method", "vsd", "--method", "sds"
    ) == Experiment(("a",), steps=4)


def test_own_method(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    method = experiment_of("a", "--method.pull", "0.75", "--method", f"{path}:Mine").method
    assert type(method).__name__ == "Mine" and method.pull == 0.75  # type: ignore[attr-defined]


def test_lists_and_paths() -> None:
    (reporting,) = parse(
        [(Reporting, None)], ["a", "--out", "x.html", "b"], "limbeck report", "", "folders"
    )
    assert reporting == Reporting((Path("a"), Path("b")), Path("x.html"))


def test_docstrings_become_help() -> None:
    summary, told = described(VSD)
    assert summary.startswith("eps_hat_s") and "guidance:" not in summary
    assert (
        told["guidance"] == "s of the prior" and told["critic"] == "what phi is and how it learns"
    )
    assert "fall" in described(SGD)[1], "a field of the base is told in the docstring of the base"


def test_default_folder() -> None:
    a, b = Experiment(("A red mug",)), Experiment(("A red mug",), seed=1)
    assert str(default_folder(a)).startswith("runs/a-red-mug-sds-")
    assert default_folder(a) != default_folder(b) and default_folder(a) == default_folder(
        Experiment(("A red mug",))
    )


@dataclass(frozen=True)
class Many:
    """Every kind of option.

    source: an image.
    """

    source: Path
    box: tuple[float, float] = (0.0, 1.0)
    rates: tuple[float, ...] = (0.1,)
    loud: bool = False
    quiet: bool = True
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    weight: Weight | None = None


def test_every_kind_of_option() -> None:
    read = lambda line: parse([(Many, None)], line.split(), "many", "")[0]  # noqa: E731
    assert read("--source-prompt x.png") == Many(Path("x.png"))
    line = "--source-prompt=x.png --box -1 2 --rates 1 2 3 --loud --no-quiet --kind b --limit 3 --weight lambda --weight.power 2"
    assert read(line) == Many(
        Path("x.png"), (-1.0, 2.0), (1.0, 2.0, 3.0), True, False, "b", 3, LambdaWeight(2.0)
    )
    assert read("--loud true --source-prompt x --quiet FALSE") == Many(
        Path("x"), loud=True, quiet=False
    )
    for line, message in (
        ("--loud", "--source-prompt is missing; it is a path"),
        ("--source-prompt x --loud=often", "--loud must be true or false, not 'often'"),
        ("--source-prompt x --box 1", "--box must be 2 values, not '1'"),
        ("--source-prompt x --rates a b", "--rates must be a list, each a number, not 'a b'"),
        ("--source-prompt x --kind c", "--kind must be one of a, b, not 'c'"),
        ("--source-prompt x --limit few", "--limit must be a whole number or nothing, not 'few'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            read(line)


# help


def test_top_help_and_version_do_not_wait_for_torch(tmp_path: Path) -> None:
    script = "import sys\nfrom limbeck.cli.main import main\nassert main(sys.argv[1:]) == 0\nassert 'torch' not in sys.modules"
    for option, word in (("--help", "train-world"), ("--version", limbeck.__version__)):
        done = shell("-c", script, option, cwd=tmp_path)
        assert done.returncode == 0 and word in done.stdout, done.stderr


def test_help_of_run_lists_names_and_the_options_of_what_is_chosen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--help"]) == 0
    plain = capsys.readouterr().out
    assert (
        "--timesteps {dreamtime," in plain
        and "--method.guidance" in plain
        and "--method.critic" not in plain
    )
    assert main(["run", "--method", "vsd", "--help"]) == 0
    vsd = capsys.readouterr().out
    assert "--method.critic {auto,exact,frozen,lowrank,nulltext,smallunet}" in vsd
    assert "--method.critic.rank" in vsd and "--every" in vsd


@pytest.mark.parametrize("verb", ["sample", "plot", "report", "train-world", "doctor"])
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"limbeck {verb}" in capsys.readouterr().out


# what is refused


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("rum a", "no verb is called 'rum'. Did you mean run?"),
        ("run a --stps 3", "no option is called '--stps'. Did you mean --steps?"),
        ("run a -x", "no option is called '-x'"),
        ("run a --method vdd", "--method: no method is called 'vdd'. Did you mean vsd?"),
        (
            "run a --method.gidance 3",
            "--method sds has no option 'gidance'. Did you mean --method.guidance?",
        ),
        ("run a --method.critic exact", "--method sds has no option 'critic'. It takes: guidance"),
        (
            "run a --method vsd --method.critic lorank",
            "--method.critic: no critic is called 'lorank'. Did you mean lowrank?",
        ),
        ("run a --representation mesh3", "no representation is called 'mesh3'"),
        ("run a --method", "--method takes a value"),
        ("run a --method --steps 3", "--method takes a value"),
        ("run a --steps", "--steps takes a whole number, and none follows"),
        ("run a --negative-prompt --steps 3", "--negative-prompt takes text, and none follows"),
        ("run a --steps ten", "--steps must be a whole number, not 'ten'"),
        ("run a --steps 2.5", "--steps must be a whole number, not '2.5'"),
        ("run a --method.guidance=big", "--method.guidance must be a number, not 'big'"),
        ("run a --steps 0", "steps must be at least 1, not 0"),
        ("run a --every -1", "every must be at least 0, not -1"),
        ("run a --timesteps fixed --timesteps.at 2", "--timesteps: times must satisfy"),
        (
            "run a --method vsd --method.critic.rank 0",
            "--method.critic: rank must be at least 1, not 0",
        ),
        ("run --steps 3", "a prompt is missing"),
        (
            "run zebra --model gaussians",
            "prompt 'zebra' names nothing of this model; words it knows: blue",
        ),
        ("run a --model nowhere", "'nowhere'"),
        ("run a --model gaussians --device tpu", "unknown device 'tpu'"),
        ("run a --model dataset:nowhere", "nowhere is not a folder"),
        ("run a --config nowhere.yaml", "no configuration file nowhere.yaml"),
        ("run a --method nowhere.py:Mine", "no file nowhere.py"),
        ("run disc --method vsd --method.critic lora --model gaussians", "no network to adapt"),
        ("sample --steps 3", "a prompt is missing"),
        ("sample a --sampler euler", "--sampler must be one of ddim, ancestral, not 'euler'"),
        ("sample a --critic nowhere", "--critic nowhere is no run folder"),
        ("report", "a run folder is missing"),
        ("report nowhere", "no run folder nowhere"),
        ("plot", "what to draw is missing: limbeck plot timesteps [NAME ...]"),
        (
            "plot weighs",
            "no picture is called 'weighs'. Did you mean weights? Accepted: timesteps, weights",
        ),
        (
            "plot timesteps linear dreamtme",
            "no timesteps is called 'dreamtme'. Did you mean dreamtime?",
        ),
        ("plot weights minsnr nothing", "no weight is called 'nothing'"),
        ("plot weights --out w.jpg", "--out must end in .png or .svg, not w.jpg"),
        ("plot timesteps --steps 0", "steps must be at least 1, not 0"),
        ("plot timesteps --under ddpm", "--under must be one of stable, cosine, flow, not 'ddpm'"),
        ("train-world --minutes many", "--minutes must be a number, not 'many'"),
        ("train-world now", "'now' belongs to no option"),
        ("doctor --all", "doctor takes no options, not '--all'"),
    ],
)
def test_refused(
    argv: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *argv.split())
    assert not any(tmp_path.iterdir()), "nothing may be left behind"


def test_no_words_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: limbeck")


def test_a_data_set_with_a_file_that_is_no_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "red_cat.png").write_text("no picture")
    assert "red_cat.png is not a picture" in refused(
        capsys, "run", "red", "--model", f"dataset:{tmp_path}", "--out", str(tmp_path / "x")
    )
    assert not (tmp_path / "x").exists()


def test_a_configuration_that_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("prompts: [a]\nmethod: {name: vsd, guidance: much}")
    assert "method.guidance must be a number, not 'much'" in refused(
        capsys, "run", "--config", str(path)
    )


# folders


def test_a_run_its_repetition_and_its_neighbour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "x")
    assert main(["run", "red disc", *TOY, "--out", out]) == 0
    written = read_yaml(Experiment, tmp_path / "x" / "run.yaml")
    assert written == Experiment(("red disc",), model="gaussians", steps=2)
    final = (tmp_path / "x" / "final.png").read_bytes()
    assert main(["run", "--config", f"{out}/run.yaml", "--device", "cpu", "--out", out]) == 0, (
        "the same run goes on, or is left alone"
    )
    capsys.readouterr()
    said = refused(capsys, "run", "red disc", *TOY, "--method.guidance", "3", "--out", out)
    assert "method.guidance: 100.0 -> 3.0" in said
    assert (
        read_yaml(Experiment, tmp_path / "x" / "run.yaml") == written
        and (tmp_path / "x" / "final.png").read_bytes() == final
    )


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert "holds files already" in refused(capsys, "run", "red disc", *TOY, "--out", str(tmp_path))
    assert "holds files already" in refused(
        capsys, "sample", "red disc", "--model", "gaussians", "--out", str(tmp_path)
    )
    assert "is a file" in refused(
        capsys, "run", "red disc", *TOY, "--out", str(tmp_path / "precious.txt")
    )
    assert "is a file" in refused(
        capsys, "run", "red disc", *TOY, "--out", str(tmp_path / "precious.txt" / "below")
    )
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_a_folder_without_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the administrator of a machine may write anywhere, whatever the mode says
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission" in refused(capsys, "run", "red disc", *TOY, "--out", str(tmp_path / "x"))


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / ("x" * 300)
    assert str(out) in refused(capsys, "run", "red disc", *TOY, "--out", str(out))


def test_a_broken_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", "red disc", *TOY, "--out", str(tmp_path / "x")]
    assert main(argv) == 0
    (checkpoint,) = (tmp_path / "x").glob("*.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    capsys.readouterr()
    assert checkpoint.name in refused(capsys, *argv)


# what goes wrong on the way


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x/part"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
        (NonFiniteError(3, "the gradient", {}), "step 3: the gradient is not finite"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"),
            "take fewer --particles",
        ),
        (
            ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard"),
            "pip install tensorboard",
        ),
    ],
)
def test_errors_on_the_way(
    error: Exception,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(limbeck.runs.recorder, "record", fail)
    argv = ["run", "red disc", *TOY, "--out", str(tmp_path / "x")]
    assert message in refused(capsys, *argv)
    monkeypatch.setenv("LIMBECK_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(argv)


def test_a_defect_of_the_program_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limbeck.runs.recorder, "record", lambda *args, **options: 1 + "1")  # type: ignore[operator]
    with pytest.raises(TypeError):
        main(["run", "red disc", *TOY, "--out", str(tmp_path / "x")])


def test_what_record_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {}

    def fake(experiment: Experiment, prior: object, folder: Path, **options: object) -> Path:
        told.update(options, folder=folder)
        return folder / "report.html"

    monkeypatch.setattr(limbeck.runs.recorder, "record", fake)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "red disc", *TOY, "--every", "25"]) == 0
    experiment = Experiment(("red disc",), model="gaussians", steps=2)
    command = "limbeck run 'red disc' --model gaussians --device cpu --steps 2 --every 25"
    assert told == {
        "folder": default_folder(experiment),
        "every": 25,
        "command": command,
        "mirror": None,
        "diagnose": True,
    }
    assert capsys.readouterr().out.strip() == str(default_folder(experiment) / "report.html")


def test_report_is_given_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        limbeck.runs.report.pages, "write", lambda folders, out: Path(f"{len(folders)}-{out}")
    )
    for name in "ab":
        (tmp_path / name).mkdir()
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", "page.html"]) == 0
    assert capsys.readouterr().out.strip() == "2-page.html"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert (
        torch.__version__ in said
        and "tensorboard" in said
        and "embedded model" in said
        and "torchvision" in said
    )


def test_no_traceback_from_a_shell(tmp_path: Path) -> None:
    done = shell("-m", "limbeck.cli.main", "run", "zebra", *TOY, cwd=tmp_path)
    assert (
        done.returncode == 2
        and done.stderr.startswith("limbeck: prompt 'zebra'")
        and "Traceback" not in done.stderr
    )


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path: Path) -> None:
    argv = [
        "run",
        "red disc",
        "--model",
        "gaussians",
        "--steps",
        "1000000",
        "--device",
        "cpu",
        "--out",
        "x",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "limbeck.cli.main", *argv],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as running:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (tmp_path / "x" / "metrics.jsonl").is_file():
            time.sleep(0.1)
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert (
        "limbeck: stopped. To go on: limbeck run 'red disc' --model gaussians" in err
        and "Traceback" not in err
    )
    assert (tmp_path / "x" / "checkpoint.safetensors").is_file()
