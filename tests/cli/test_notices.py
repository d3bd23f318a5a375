"""Notices of unknown words before the model is loaded, by every command and in Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_pipeline import WORDS

import limbeck as lb
import limbeck.api
import limbeck.priors.loading
import limbeck.studies.base
from limbeck.cli.main import main
from limbeck.config.yaml import to_yaml
from limbeck.diffusion.vocabulary import caption_vocabulary, write_vocabulary
from limbeck.priors.exact import GaussianMixture
from limbeck.representations.nerf import NeRF
from limbeck.runs.report.pages import write_report
from limbeck.runs.report.run_data import read_run_data
from limbeck.runs.run_command import read_run_command
from limbeck.system.checkpoint import write_checkpoint
from limbeck.system.notices import Notice, collect_notices, display_notices
from limbeck.training.experiment import Experiment

DRAGON = "a purple dragon riding a bicycle"
NOT_LOADED = "limbeck: error: the model would be loaded now"
UNKNOWN_WORDS = f'"{DRAGON}": the model does not know "dragon", "riding", "bicycle"'


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return str(path)


@pytest.fixture
def captioned(v_folder: Path, tmp_path: Path) -> str:
    """A model of other captions than the world's."""
    folder = tmp_path / "captioned"
    shutil.copytree(v_folder, folder)
    write_vocabulary(caption_vocabulary(WORDS), folder)
    return str(folder)


class LoadingError(ValueError):
    """Raised in place of loading a model."""


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **options: object) -> None:
        raise LoadingError("the model would be loaded now")

    for module in (limbeck.priors.loading, limbeck.api, limbeck.studies.base):
        monkeypatch.setattr(module, "load", load)


@pytest.mark.parametrize(
    "argv",
    [
        ("run", DRAGON),
        ("run", DRAGON, "--preset", "dreamfusion"),
        ("run", "a red mug", "--negative-prompt", DRAGON),
        ("sample", DRAGON),
        ("sample", "a red mug", "--negative-prompt", DRAGON),
        ("study", "guidance", "--prompts", DRAGON),
        ("edit", "PHOTO", "--source-prompt", "a red mug", "--target-prompt", DRAGON),
        ("edit", "PHOTO", "--source-prompt", DRAGON, "--target-prompt", "a red mug"),
    ],
    ids=" ".join,
)
def test_every_command_gives_notice_before_it_loads_the_model(
    argv: tuple[str, ...],
    no_loading: None,
    photo: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [photo if word == "PHOTO" else word for word in argv]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out)]) == 2 and not out.exists()
    unknown, known, loading = capsys.readouterr().err.splitlines()
    assert unknown == f"limbeck: {UNKNOWN_WORDS}" and loading == NOT_LOADED
    for words_known in ("sphere", "cyan", "checkered", "in the snow", "Stable Diffusion: --model"):
        assert words_known in known


def test_eval_gives_notice_before_it_loads_the_model(
    no_loading: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment((DRAGON,), representation=NeRF(), steps=1)
    (tmp_path / "run.yaml").write_text(to_yaml(experiment), encoding="utf-8")
    write_checkpoint(tmp_path / "checkpoint.safetensors", {}, {"step": 1})
    assert main(["eval", str(tmp_path)]) == 2
    unknown, _, loading = capsys.readouterr().err.splitlines()
    assert unknown == f"limbeck: {UNKNOWN_WORDS}" and loading == NOT_LOADED


def test_python_warns_before_it_loads_the_model(no_loading: None, photo: str) -> None:
    # warned once per process: other words each time
    with pytest.warns(Notice, match='does not know "gryphon"'), pytest.raises(LoadingError):
        lb.distill("a gryphon")
    with pytest.warns(Notice, match='does not know "unicorn"'), pytest.raises(LoadingError):
        lb.sample("a unicorn")
    with pytest.warns(Notice, match='does not know "mermaid"'), pytest.raises(LoadingError):
        lb.edit(photo, "a mermaid", "a red mug")


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("world", "a photo of a striped red mug, front view"),
        ("gaussians", "a red disc"),
        ("gaussians", "RED"),
    ],
)
def test_prompts_in_the_models_own_words_are_not_commented(
    model: str, prompt: str, no_loading: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", prompt, "--model", model]) == 2
    assert capsys.readouterr().err == "limbeck: error: the model would be loaded now\n"


def test_words_that_name_nothing_of_an_exact_prior_are_noticed(
    no_loading: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    prompt = "3 shiny red discs on the_red ring"
    assert main(["run", prompt, "--model", "gaussians", "--out", str(out)]) == 2
    unknown, known, _ = capsys.readouterr().err.splitlines()
    assert unknown == f'limbeck: "{prompt}": the model does not know "3", "shiny", "discs", "on"'
    words = "blue, disc, green, red, ring, square, yellow"
    assert known.startswith(f"limbeck: the model knows {words}; for anything else bring another")

    (tmp_path / "cats").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cats" / "gray_01.png")
    assert main(["sample", "black cats", "--model", f"dataset:{tmp_path}"]) == 2
    unknown, known, _ = capsys.readouterr().err.splitlines()
    assert unknown == 'limbeck: "black cats": the model does not know "black"'
    assert known.startswith("limbeck: the model knows cats, gray;")


@pytest.mark.parametrize("prompt", ["a zebra", "42", "?!"])
def test_an_exact_prior_refuses_a_prompt_that_names_nothing_in_one_line(
    prompt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", prompt, "--model", "gaussians", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"prompt {prompt!r} names nothing of this model; words it knows: blue" in line
    assert not out.exists()


def test_a_mixture_of_ones_own_gives_notice_too() -> None:
    own = GaussianMixture(torch.zeros(2, 3, 8, 8), torch.ones(2), labels=("tabby", "tom"))
    with pytest.warns(Notice, match='does not know "stray"'):
        limbeck.priors.loading.notify_unknown_words(own, ["stray tabby"])
    unlabeled = GaussianMixture(torch.zeros(2, 3, 8, 8), torch.ones(2))
    assert limbeck.priors.loading.find_vocabulary(unlabeled) is None


def test_the_vocabulary_is_that_of_the_model_and_not_of_its_name(
    captioned: str, v_folder: Path, no_loading: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "two striped snowmen", "--model", captioned]) == 2
    unknown, known, _ = capsys.readouterr().err.splitlines()
    assert unknown == 'limbeck: "two striped snowmen": the model does not know "snowmen"'
    assert known.startswith("limbeck: the model knows a, on,") or "striped" in known
    assert main(["sample", "two striped snowmen", "--model", str(v_folder)]) == 2
    assert capsys.readouterr().err == "limbeck: error: the model would be loaded now\n"


def test_a_broken_vocabulary_is_refused(
    captioned: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (Path(captioned) / "vocabulary.json").write_text("[]")
    out = tmp_path / "out"
    assert main(["run", "a mug", "--model", captioned, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "vocabulary.json is not a vocabulary" in line and not out.exists()


def test_the_report_repeats_each_notice_once(
    captioned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "a <b>zebra</b> and " + "a red mug, " * 5
    run, samples = tmp_path / "run", tmp_path / "samples"
    options = ["--model", captioned, "--steps", "1"]
    assert main(["run", prompt, *options, "--out", str(run)]) == 0
    err = capsys.readouterr().err
    assert main(["sample", prompt, *options, "--out", str(samples)]) == 0
    assert capsys.readouterr().err.splitlines()[:3] == err.splitlines()[:3]
    for folder in (run, samples):
        notices = read_run_data(folder).notices
        assert [f"limbeck: {text}" for text in notices] == err.splitlines()[:3]
        assert 'does not know "b", "zebra", "and"' in notices[0]
        assert "is not read by text_encoder, which stops after 12 tokens; shorten" in notices[2]
        page = write_report([folder]).read_text(encoding="utf-8")
        assert page.count("&lt;b&gt;zebra&lt;/b&gt; and a red") >= 2 and "<b>zebra" not in page
        assert page.count('<div class="note">') == 3


def test_a_known_prompt_leaves_no_notices(captioned: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["run", "a red mug", "--model", captioned, "--steps", "1", "--out", str(out)]) == 0
    assert not (out / "notices.json").exists()
    assert '<div class="note">' not in (out / "report.html").read_text(encoding="utf-8")


def test_a_prompt_without_quotes_is_noticed() -> None:
    """Each of its words would be a prompt."""
    with display_notices(lambda text: None), collect_notices() as notices:
        assert read_run_command(["a", "red", "mug"]).experiment.prompts == ("a", "red", "mug")
        assert 'in quotes, as in limbeck run "a red mug"' in notices[0]
        read_run_command(["a red mug", "a"])
        read_run_command(["duck", "mug"])
    assert len(notices) == 1
