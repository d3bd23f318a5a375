"""Configuration files: what is refused, and paths."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from refusals import refused
from small_2d import write_test_image

from limbeck.cli.main import main
from limbeck.config.yaml import from_yaml, read_yaml
from limbeck.diffusion.model_options import Model
from limbeck.training.experiment import Experiment

ALIAS_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIAS_BOMB, r"aliases \(\*a\) are not read"),
        ("prompts: &x [*x]", r"aliases \(\*x\) are not read"),
        ("prompts: " + "[" * 5000, "more than 50 levels of nesting"),
        ("prompts: " + "{a: " * 5000, "more than 50 levels of nesting"),
        ("prompts: [a]\nsteps: 3\nsteps: 5", "steps is given twice"),
        ("prompts: [a]\nmethod: {name: sds, guidance: 1, guidance: 2}", "guidance is given twice"),
        (
            "prompts: [a]\nsteps: 1" + "0" * 30,
            "steps must be an integer of at most 64 bits",
        ),
        ("prompts: [a]\nseed: 1" + "0" * 5000, "this is not YAML|seed must be an integer"),
        ("prompts: [a]\nmethod: {name: sds, guidance: 1" + "0" * 400 + "}", "must be a number"),
        ("prompts: {a: 1}", "prompts must be a list"),
        ("prompts: !!set {a, b}", "prompts must be a list"),
        ("prompts: [2020-13-45]", "this is not YAML"),
        ("1: 2", "no option of Experiment is called '1'"),
        ("null: 2", "no option of Experiment is called 'None'"),
        ("? [a]\n: b", "this is not YAML"),
        ("prompts: [a]\nsteps: {a: " + "x" * 9999 + "}", r"steps must be an integer, not .{0,70}$"),
        ("prompts: [a]\nmethod: [sds]", "method must be 'NAME'"),
        (
            "prompts: [a\0b]",
            r"YAML: character U\+0000 is not allowed \(character 12\)$",
        ),
        ("prompts: a: b", r"mapping values are not allowed here \(line 1, column 11\)$"),
        ("steps: 3\n\tseed: 1", r"cannot start any token \(line 2, column 1\)$"),
        ("!!python/object/apply:os.system ['true']", "this is not YAML"),
        ("- a", "a configuration maps options to values"),
        ("'" + "x" * 9999 + "'", r"a configuration maps .{0,110}$"),
        ("prompts: [a]\nmodel: {name: world, lora: ''}", "lora must be a path or none"),
    ],
)
def test_unusable_yaml_is_refused_in_one_short_line(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        from_yaml(Experiment, text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert "unicode string" not in str(error.value), "a name that YAML gives, not a file"
    assert time.process_time() - start < 2


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"prompts: [caf\xe9]")
    with pytest.raises(ValueError, match=r"x\.yaml is not text in UTF-8: byte 13 is invalid"):
        read_yaml(Experiment, path)
    path.write_bytes(b"\xef\xbb\xbfprompts: [a]")  # a byte order mark, as Windows writes it
    assert read_yaml(Experiment, path) == Experiment(("a",))


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = "prompts: [a]\nmodel: {lora: ~/x.safetensors}\nrepresentation: {name: pixels}"
    experiment = from_yaml(Experiment, text)
    assert isinstance(experiment.model, Model)
    assert experiment.model.lora == Path("/home/me/x.safetensors")


def test_a_run_of_relative_paths_is_resumed_and_reported_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a" / "images").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    write_test_image(tmp_path / "a" / "images" / "red.png", 16, 16, 0.2)
    monkeypatch.chdir(tmp_path / "a")
    argv = ["--model", "dataset:images", "--representation", "pixels", "--steps", "2"]
    argv += ["--representation.images", "images/red.png", "--device", "cpu", "--out", "../x"]
    assert main(["run", "red", *argv]) == 0
    assert main(["run", "red", *argv]) == 0, "resumed under its relative paths"
    monkeypatch.chdir(tmp_path / "b")
    assert main(["run", "--config", "../x/run.yaml", "--device", "cpu", "--out", "y"]) == 0
    final = Path("final.png")
    assert (tmp_path / "x" / final).read_bytes() == (tmp_path / "b" / "y" / final).read_bytes()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.yaml", "a: [", "run.yaml: this is not YAML: while parsing a flow node"),
        ("run.yaml", "- a", "run.yaml is not the configuration of a run"),
        ("run.yaml", "prompts: 5", "cannot be reported"),
        ("run.yaml", ALIAS_BOMB, "run.yaml: this is not YAML: aliases"),
        ("run.yaml", b"\xff", "run.yaml is not text in UTF-8"),
        ("profile.json", "{", "profile.json is not valid JSON"),
        ("profile.json", "[]", "profile.json must hold a JSON object"),
        ("profile.json", '{"seconds": 3}', "cannot be reported"),
        ("scores.json", b"\xff", "scores.json is not text in UTF-8"),
        ("environment.json", "nothing", "environment.json is not valid JSON"),
        ("final/*.png", b"no image", ".png is not an image that can be read"),
    ],
)
def test_a_damaged_run_folder_is_reported_in_one_line(
    file: str,
    text: str | bytes,
    message: str,
    finished: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path,) = finished.glob(file)
    before, report = path.read_bytes(), (finished / "report.html").read_bytes()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        assert message in refused(capsys, "report", str(finished))
        assert (finished / "report.html").read_bytes() == report, "nothing is overwritten"
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("run") / "x"
    argv = ["run", "red disc", "--model", "gaussians", "--steps", "2", "--device", "cpu"]
    assert main([*argv, "--out", str(out)]) == 0
    return out
