"""Notices of a run that continues under other code, libraries or hardware."""

import json
from pathlib import Path

import pytest
from own_component import OWN_METHOD
from PIL import Image
from run_folders import experiment, record_run

from limbeck.cli.main import main
from limbeck.config.discovery import find
from limbeck.methods.base import Method
from limbeck.representations.generator import Generator
from limbeck.runs import environment_file
from limbeck.runs.own_files import changed_files, own_files
from limbeck.runs.recorder import is_finished
from limbeck.runs.run_command import read_run_command
from limbeck.system.notices import collect_notices, display_notices


def resume(e: object, folder: Path) -> list[str]:
    """Notices of a run that continues after its last step."""
    (folder / "profile.json").unlink()
    with display_notices(lambda text: None), collect_notices() as notices:
        record_run(e, folder)
    assert is_finished(folder, e)
    return [text for text in notices if "another environment" in text]


def change(folder: Path, **changes: object) -> None:
    path = folder / "environment.json"
    start = json.loads(path.read_text())
    start["versions"] |= changes.pop("versions", {})
    path.write_text(json.dumps(start | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    record_run(experiment(steps=2), folder)
    return folder


def test_the_same_environment_is_not_mentioned(folder: Path) -> None:
    assert resume(experiment(steps=2), folder) == []
    assert "continued" not in json.loads((folder / "environment.json").read_text())


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"versions": {"limbeck": "0.0.1"}}, "limbeck 0.0.1 -> "),
        ({"versions": {"torch": "1.13"}}, "torch 1.13 -> "),
        ({"versions": {"diffusers": "0.9"}}, "diffusers 0.9 -> "),
        ({"python": "3.9.1"}, "python 3.9.1 -> "),
        ({"device": "NVIDIA H100"}, "device NVIDIA H100 -> cpu"),
        ({"cuda": "12.1"}, "cuda 12.1 -> none"),
    ],
)
def test_another_environment_is_reported_in_one_notice(
    changes: dict[str, object], difference: str, folder: Path
) -> None:
    before = (folder / "environment.json").read_text()
    change(folder, **changes)
    (text,) = resume(experiment(steps=2), folder)
    assert difference in text and "continues after step 2" in text and "\n" not in text
    kept = json.loads((folder / "environment.json").read_text())["continued"]
    assert kept[0]["step"] == 2 and difference in kept[0]["differences"][0]
    assert difference in json.loads((folder / "notices.json").read_text())[0]
    assert difference.replace("->", "-&gt;") in (folder / "report.html").read_text()
    (folder / "environment.json").write_text(before)


def test_auto_precision_that_takes_another_dtype_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "environment.json").read_text()
    now = json.loads(before)["dtype"]
    then = "float16"
    change(folder, dtype=then)
    (text,) = resume(experiment(steps=2), folder)
    assert f"dtype {then} -> {now}" in text
    (folder / "environment.json").write_text(before)


def test_an_own_file_that_has_changed_is_reported(tmp_path: Path) -> None:
    file, folder = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(OWN_METHOD)
    e = experiment(method=find(Method, f"{file}:Mine")(), steps=2)
    record_run(e, folder)
    assert list(json.loads((folder / "environment.json").read_text())["own_files"]) == [str(file)]
    file.write_text(OWN_METHOD.replace("inputs.x0", "2 * inputs.x0"))
    (text,) = resume(e, folder)
    assert f"{file} has changed" in text


def test_an_environment_of_an_earlier_version_is_compared_where_it_can_be(folder: Path) -> None:
    path = folder / "environment.json"
    before = path.read_text()
    path.write_text(json.dumps({"python": json.loads(before)["python"]}))
    assert resume(experiment(steps=2), folder) == []
    path.write_text(before)
    assert environment_file.read_json_object(path)["versions"]


def test_the_captions_of_a_generator_are_a_file_of_ones_own(tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("red disc\nblue ring\n", encoding="utf-8")
    e = experiment(representation=Generator(captions=captions))
    before = own_files(e)
    assert set(before) == {str(captions)}
    captions.write_text("red disc\ngreen ring\n", encoding="utf-8")
    assert changed_files({"own_files": before}, own_files(e)) == [str(captions)]


SDS_SUBCLASS = "from limbeck.methods.sds import SDS\n\n\nclass Mine(SDS):\n    pass\n"


def test_a_finished_run_of_other_code_is_noticed(tmp_path, capsys):
    """Editing one's method and repeating the command must not show old numbers as new ones."""
    mine = tmp_path / "mine.py"
    mine.write_text(SDS_SUBCLASS, encoding="utf-8")
    command = ["run", "red disc", "--model", "gaussians", "--method", f"{mine}:Mine"]
    command += ["--steps", "2", "--out", str(tmp_path / "run")]
    assert main(command) == 0 and main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    mine.write_text(SDS_SUBCLASS + "\n# another formula\n", encoding="utf-8")
    assert main(command) == 0
    assert f"but {mine} has changed since then; to run it as it is now" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_data_set_and_initial_images_are_files_of_ones_own(tmp_path: Path) -> None:
    """A finished run of another version of them is not the one that a command asks for."""
    data, start = tmp_path / "data", tmp_path / "start.png"
    data.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 64), "red").save(data / f"{name}.png")
    Image.new("RGB", (64, 64), "red").save(start)
    command = ["run", "a", "--model", f"dataset:{data}", "--representation", "pixels"]
    command += ["--representation.images", str(start)]
    e = read_run_command(command[1:]).experiment
    before = own_files(e)
    assert set(before) == {str(data), str(start)}
    Image.new("RGB", (64, 64), "blue").save(data / "b.png")
    assert changed_files({"own_files": before}, own_files(e)) == [str(data)]
    (data / "b.png").rename(data / "c.png")  # the label is another
    assert own_files(e)[str(data)] != before[str(data)]
    Image.new("RGB", (64, 64), "blue").save(start)
    assert set(changed_files({"own_files": before}, own_files(e))) == {str(data), str(start)}
