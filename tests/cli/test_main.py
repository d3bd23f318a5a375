"""Errors, exit codes and output folders of the command line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused

import limbeck
import limbeck.runs.recorder
import limbeck.runs.report.pages
from limbeck.cli.main import main
from limbeck.config.yaml import read_yaml
from limbeck.methods.sds import SDS
from limbeck.runs import sample_recorder
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.run_command import default_run_folder
from limbeck.runs.stage import StagePosition
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment

TOY = ("--model", "gaussians", "--device", "cpu", "--steps", "2")


def shell_environment() -> dict[str, str]:
    """Environment of a shell in another folder that imports this source."""
    assert limbeck.__file__ is not None
    source = str(Path(limbeck.__file__).parents[1])
    return os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}


def shell(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=shell_environment())


def test_help_and_version_start_without_torch(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom limbeck.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\nassert 'torch' not in sys.modules"
    )
    for option, word in (("--help", "train-world"), ("--version", limbeck.__version__)):
        done = shell("-c", script, option, cwd=tmp_path)
        assert done.returncode == 0 and word in done.stdout, done.stderr


def test_default_folder() -> None:
    a, b = Experiment(("A red mug",)), Experiment(("A red mug",), seed=1)
    assert str(default_run_folder(a)).startswith("runs/a-red-mug-sds-")
    assert default_run_folder(a) != default_run_folder(b)
    assert default_run_folder(a) == default_run_folder(Experiment(("A red mug",)))


# refused input


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("rum a", "no command is called 'rum'. Did you mean run?"),
        ("run a --stps 3", "no option is called '--stps'. Did you mean --steps?"),
        ("run a --weight.x 3", "no option of --weight dreamfusion is called 'x'. Accepted: none"),
        ("run a --guidance 3", "no option is called '--guidance'. Did you mean --method.guidance?"),
        (
            "run a --preset one-step --init-from b",
            "'--init-from'. Did you mean --representation.init-from?",
        ),
        ("run a -x", "no option is called '-x'"),
        ("run a --method vdd", "--method: no method is called 'vdd'. Did you mean vsd?"),
        (
            "run a --method.gidance 3",
            "no option of --method sds is called 'gidance'. Did you mean guidance?",
        ),
        (
            "run a --method.critic exact",
            "no option of --method sds is called 'critic'. Accepted: guidance",
        ),
        (
            "run a --method vsd --method.critic lorra",
            "--method.critic: no critic is called 'lorra'. Did you mean lora?",
        ),
        ("run a --representation nerff", "no representation is called 'nerff'"),
        ("run a --method", "--method needs a value, one of asd,"),
        ("run a --method --steps 3", "--method needs a value, one of asd,"),
        ("run a --steps", "--steps needs a value, an integer"),
        ("run a --negative-prompt --steps 3", "--negative-prompt needs a value, text"),
        ("run a --steps ten", "--steps must be an integer, not 'ten'"),
        ("run a --steps 2.5", "--steps must be an integer, not '2.5'"),
        ("run a --method.guidance=big", "--method.guidance must be a number, not 'big'"),
        ("run a --steps 0", "steps must be at least 1, not 0"),
        ("run a --image-every -1", "--image-every must be at least 0, not -1"),
        ("run a --checkpoint-every -1", "--checkpoint-every must be at least 0, not -1"),
        ("run a --timesteps fixed --timesteps.t 2", "--timesteps.t must lie in [0, 1], not 2"),
        (
            "run a --method vsd --method.critic.rank 0",
            "--method.critic.rank must be at least 1, not 0",
        ),
        ("run --steps 3", "a prompt is missing"),
        (
            "run zebra --model gaussians",
            "prompt 'zebra' names nothing of this model; words it knows: blue",
        ),
        ("run a --model nowhere", "'nowhere'"),
        (
            "run a --model gaussians --device tpu",
            "device must be auto, cpu, cuda, cuda:N or mps, not 'tpu'",
        ),
        ("run a --model dataset:nowhere", "nowhere is not a folder"),
        ("run a --config nowhere.yaml", "no configuration file nowhere.yaml"),
        ("run a --method nowhere.py:Mine", "no file nowhere.py"),
        ("run disc --method vsd --method.critic lora --model gaussians", "no network to adapt"),
        ("sample --steps 3", "a prompt is missing"),
        ("sample a --sampler euler", "--sampler must be one of ddim, ancestral, not 'euler'"),
        ("sample a --critic nowhere", "--critic nowhere is not a run folder"),
        ("report", "a run folder is missing"),
        ("report nowhere", "no run folder nowhere"),
        ("plot", "what to plot is missing: limbeck plot timesteps [NAME ...]"),
        (
            "plot weighs",
            "no plot is called 'weighs'. Did you mean weights? Accepted: timesteps, weights",
        ),
        (
            "plot timesteps linear dreamtme",
            "no timesteps is called 'dreamtme'. Did you mean dreamtime?",
        ),
        ("plot weights minsnr nothing", "no weight is called 'nothing'"),
        ("plot weights --out w.jpg", "--out must end in .png or .svg, not w.jpg"),
        ("plot timesteps --steps 0", "steps must be at least 1, not 0"),
        (
            "plot timesteps --schedule ddpm",
            "--schedule must be one of stable-diffusion, cosine, rectified-flow, not 'ddpm'",
        ),
        ("train-world --minutes many", "--minutes must be a number, not 'many'"),
        ("train-world now", "'now' belongs to no option"),
        ("methods now", "'now' belongs to no option"),
        ("view a b", "give one run folder, not 2: limbeck view runs/NAME"),
        ("doctor --all", "no option is called '--all'. Accepted: none"),
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


def test_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: limbeck")


def test_a_dataset_with_a_file_that_is_not_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "red_cat.png").write_text("not an image")
    assert "red_cat.png is not an image that can be read" in refused(
        capsys, "run", "red", "--model", f"dataset:{tmp_path}", "--out", str(tmp_path / "x")
    )
    assert not (tmp_path / "x").exists()


def test_a_broken_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("prompts: [a]\nmethod: {name: vsd, guidance: much}")
    assert "method.guidance must be a number, not 'much'" in refused(
        capsys, "run", "--config", str(path)
    )


# folders


def test_a_run_is_resumed_and_another_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "x")
    assert main(["run", "red disc", *TOY, "--out", out]) == 0
    written = read_yaml(Experiment, tmp_path / "x" / "run.yaml")
    assert written == Experiment(("red disc",), model="gaussians", method=SDS(1.0), steps=2)
    final = (tmp_path / "x" / "final.png").read_bytes()
    assert main(["run", "--config", f"{out}/run.yaml", "--device", "cpu", "--out", out]) == 0, (
        "a finished run is not touched"
    )
    capsys.readouterr()
    message = refused(capsys, "run", "red disc", *TOY, "--method.guidance", "3", "--out", out)
    assert "method.guidance: 1.0 -> 3.0" in message
    assert (
        read_yaml(Experiment, tmp_path / "x" / "run.yaml") == written
        and (tmp_path / "x" / "final.png").read_bytes() == final
    )


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious.txt").write_text("keep")
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


def test_samples_do_not_join_others_that_are_being_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, messages = sample_recorder._draw, []
    argv = ["--model", "gaussians", "--device", "cpu", "--steps", "2", "--out", str(tmp_path / "x")]

    def draw_beside_others(*args: Any) -> torch.Tensor:
        messages.append(refused(capsys, "sample", "blue ring", *argv))
        return draw(*args)

    monkeypatch.setattr(sample_recorder, "_draw", draw_beside_others)
    assert main(["sample", "red disc", *argv]) == 0
    assert "is in use" in messages[0]
    left = tmp_path / "left"  # by a process that was killed while it drew
    left.mkdir()
    (left / ".lock").touch()
    monkeypatch.undo()
    assert main(["sample", "red disc", *argv[:-1], str(left)]) == 0
    assert "red disc" in (tmp_path / "x" / "sample.yaml").read_text(encoding="utf-8")


def test_a_folder_without_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # root can write anywhere, whatever the mode
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission" in refused(capsys, "run", "red disc", *TOY, "--out", str(tmp_path / "x"))


def test_a_folder_that_cannot_be_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / ("x" * 300)
    assert str(out) in refused(capsys, "run", "red disc", *TOY, "--out", str(out))


def test_a_broken_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["run", "red disc", *TOY, "--out", str(tmp_path / "x")]
    assert main(argv) == 0
    (checkpoint,) = (tmp_path / "x").glob("*.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    capsys.readouterr()
    assert checkpoint.name in refused(capsys, *argv)


#: how lines of a run begin
LINES_OF_A_RUN = (
    "frozen weights in bfloat16",
    "x: open",
    "plan:",
    "step ",
    "finished:",
    '"a red',
    "rejected:",
    "images: x/final",
    "next:",
    "limbeck ",
)


@pytest.mark.parametrize("method", ["sds", "vsd"])
def test_a_run_prints_nothing_of_the_libraries(method: str, tmp_path: Path) -> None:
    argv = ["run", "a red mug", "--method", method, "--steps", "2", "--out", "x"]
    done = shell("-m", "limbeck", *argv, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines() == ["x/report.html"]
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert all(
        line.strip().startswith((*LINES_OF_A_RUN, "\N{BOX DRAWINGS HEAVY HORIZONTAL}"))
        for line in lines
    )


# errors during a run


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x/part"), "the disk is full"),
        (OSError(errno.EACCES, "Permission denied", "x"), "x: Permission denied"),
        (NonFiniteError(3, "the gradient", {}), "step 3: the gradient is not finite"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"),
            "use fewer --particles",
        ),
        (
            ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard"),
            "pip install tensorboard",
        ),
    ],
)
def test_errors_during_a_run(
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


def test_a_defect_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise TypeError

    monkeypatch.setattr(limbeck.runs.recorder, "record", fail)
    with pytest.raises(TypeError):
        main(["run", "red disc", *TOY, "--out", str(tmp_path / "x")])


def test_arguments_of_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {}

    def fake(
        experiment: Experiment,
        prior: object,
        folder: Path,
        recording: RecordingOptions,
        command: str,
        **options: object,
    ) -> Path:
        arguments.update(options, folder=folder, recording=recording, command=command)
        return folder / "report.html"

    monkeypatch.setattr(limbeck.runs.recorder, "record", fake)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "red disc", *TOY, "--image-every", "25"]) == 0
    experiment = Experiment(("red disc",), model="gaussians", method=SDS(1.0), steps=2)
    command = "limbeck run 'red disc' --model gaussians --device cpu --steps 2 --image-every 25"
    assert arguments == {
        "folder": default_run_folder(experiment),
        "recording": RecordingOptions(25, checkpoint_every=0, stop_on_collapse=True, films=True),
        "command": command,
        "logger": None,
        "stage": StagePosition(),
    }
    assert capsys.readouterr().out.strip() == str(default_run_folder(experiment) / "report.html")


def test_folders_of_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        limbeck.runs.report.pages,
        "write_report",
        lambda folders, out: Path(f"{len(folders)}-{out}"),
    )
    for name in "ab":
        (tmp_path / name).mkdir()
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", "page.html"]) == 0
    assert capsys.readouterr().out.strip() == "2-page.html"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert (
        torch.__version__ in out
        and "tensorboard" in out
        and "embedded model" in out
        and "torchvision" in out
    )


def test_no_traceback_from_a_shell(tmp_path: Path) -> None:
    done = shell("-m", "limbeck.cli.main", "run", "zebra", *TOY, cwd=tmp_path)
    assert (
        done.returncode == 2
        and done.stderr.startswith("limbeck: error: prompt 'zebra'")
        and "Traceback" not in done.stderr
    )


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_leaves_a_checkpoint_and_prints_how_to_resume(tmp_path: Path) -> None:
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
        env=shell_environment(),
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (tmp_path / "x" / "metrics.jsonl").is_file():
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert (
        "limbeck: stopped. To resume: limbeck run 'red disc' --model gaussians" in err
        and "Traceback" not in err
    )
    assert (tmp_path / "x" / "checkpoint.safetensors").is_file()


def test_a_reader_that_stops_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as head does after its lines
    command = [sys.executable, "-m", "limbeck", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.stderr == b"" and done.returncode == 141
