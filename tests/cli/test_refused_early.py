"""Outputs and inputs that cannot be used are refused before anything is loaded or written."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from refusals import refused

import limbeck.api  # bound to the real load before it is replaced
import limbeck.priors.loading
import limbeck.runs.reopen
from limbeck.config.discovery import choices, component_name
from limbeck.config.yaml import to_yaml
from limbeck.methods.base import EditMethod
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset
from limbeck.training.presets.dreamfusion import DreamFusionPreset
from limbeck.training.presets.lucid_splats import LucidSplatsPreset
from limbeck.training.presets.mvdream import MVDreamPreset
from limbeck.training.presets.prolificdreamer import ProlificDreamerPreset
from limbeck.training.presets.zero123 import Zero123Preset
from limbeck.world.pretrained import WEIGHTS

MULTI_VIEW = WEIGHTS.with_name("weights_multi_view")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--init-from nowhere", "--init-from nowhere is not a folder"),
        ("--init-from .", "--init-from . is not a pipeline: it has no vae/"),
        (f"--init-from {MULTI_VIEW}", "class_embed_type of its U-Net is projection, not"),
        (
            f"--init-from {WEIGHTS} --prediction-type epsilon",
            "predicts v_prediction; give --prediction-type v_prediction",
        ),
        (f"--init-from {WEIGHTS} --multi_view --minutes 3", "no option is called '--minutes'"),
        ("--images . --num-images 5000", "--num-images 5000 has no effect with images: leave it"),
        ("--images nowhere", "--images nowhere is not a folder"),
        ("--device tpu", "--device must be one of auto, cpu, cuda, not 'tpu'"),
        ("--seed -1", "--seed must be at least 0, not -1"),
        ("--minutes nan", "--minutes must be a finite number, not 'nan'"),
        ("--snr-floor inf", "--snr-floor must be a finite number, not 'inf'"),
    ],
)
def test_a_training_looks_at_its_options_first(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = refused(capsys, "train-world", *line.split())
    assert message in found.replace(str(tmp_path.resolve()), ".").replace("./nowhere", "nowhere")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["taken.glb", "taken.glb/asset.glb"])
def test_a_file_of_export_is_checked_before_the_run_is_loaded(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limbeck.runs.reopen, "reopen_run", None)
    (tmp_path / "taken.glb").write_text("mine", encoding="utf-8")
    message = refused(capsys, "export", "run", "--out", name)
    assert "taken.glb" in message and "choose another" in message
    assert (tmp_path / "taken.glb").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("guidance --guidance-scales nan", "--guidance-scales must be a list, each a finite"),
        ("overfit --critic-lr -1", "lr must not be negative, not -1"),
        ("guidance --prompts ''", "a prompt is missing"),
        ("guidance --guidance-scales", "--guidance-scales is empty: give at least one value"),
    ],
)
def test_a_study_looks_at_its_options_before_it_loads_the_model(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    import limbeck.studies.base

    monkeypatch.setattr(limbeck.studies.base, "load", None)
    assert message in refused(capsys, "study", *line.replace("''", " ").split(" "))
    assert not any(tmp_path.iterdir())


def test_the_default_file_of_export_is_checked_before_the_run_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limbeck.runs.reopen, "reopen_run", None)
    (tmp_path / "run.yaml").write_text(to_yaml(Experiment(("a duck",), representation=NeRF())))
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "00-00.glb").write_text("mine", encoding="utf-8")
    message = refused(capsys, "export", str(tmp_path))
    assert "00-00.glb exists and is not overwritten" in message
    assert (tmp_path / "export" / "00-00.glb").read_text() == "mine"


def test_a_billion_samples_are_refused_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limbeck.priors.loading, "load", None)
    message = refused(capsys, "sample", "red disc", "--num-images", "1000000000")
    assert "1,000,000,000 images" in message


def test_films_are_not_left_out_of_a_run_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import limbeck as lb

    monkeypatch.setattr(limbeck.priors.loading, "load", None)
    for word in ("--no-films", "--no_films"):
        message = refused(capsys, "run", "a duck", word)
        assert "--no-films (films=False) has no effect: a run of images has no films" in message
    with pytest.raises(ValueError, match="films=False"):
        lb.distill("a duck", films=False, out=tmp_path / "run")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "method",
    [n for n, c in choices(EditMethod).items() if c.needs_source and c.optimizes == "images"],
)
def test_a_run_of_a_method_that_edits_is_refused_before_anything_is_said(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limbeck.priors.loading, "load", None)
    # neither the words that the model lacks nor the dtype of its weights have a line
    message = refused(capsys, "run", "a red zebra", "--method", method)
    assert message.startswith("this method edits images: use limbeck edit IMAGE")
    with pytest.raises(ValueError, match="this method edits images"):
        limbeck.api.distill("a red zebra", method=method, out=tmp_path / "run")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--image nowhere.png", "no image file nowhere.png"),
        ("--image text.png", "text.png is not an image that can be read"),
        ("--image green.png", "green.png has neither transparent pixels nor a white background"),
        (
            "--image red.png --reference.depth nowhere.png --reference.depth-weight 1",
            "no image file nowhere.png",
        ),
        ("--image red.png --representation latents", "the representation latents is 2D"),
        ("--image red.png --prompts", "--prompts has no name on the command line"),
    ],
)
def test_the_image_of_a_run_is_read_before_the_model(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(limbeck.priors.loading, "load", None)
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    for name in ("green", "red"):
        image = Image.new("RGB", (9, 9), name if name == "green" else "white")
        image.putpixel((4, 4), (255, 0, 0))
        image.save(tmp_path / f"{name}.png")
    files = sorted(tmp_path.iterdir())
    words = line.split()
    representation = [] if "--representation" in words else ["--representation", "nerf"]
    assert message in refused(capsys, "run", "a duck", *words, *representation)
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("preset", "stage"),
    [(LucidSplatsPreset(), "splats"), (ProlificDreamerPreset(last_stage="texture"), "texture")],
)
def test_every_stage_of_a_recipe_is_checked_before_the_first_one(
    preset: Preset, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(limbeck.priors.loading, "load", None)
    monkeypatch.setattr(limbeck.api, "load", None)
    image = Image.new("RGB", (9, 9), "white")
    image.putpixel((4, 4), (255, 0, 0))
    image.save(tmp_path / "red.png")
    files = ("--image", "red.png", "--reference.normal", "red.png")
    last = ("--preset.last-stage", preset.last_stage) if preset.last_stage else ()
    words = ("--preset", component_name(type(preset)), *last, *files)
    words = (*words, "--reference.normal-weight", "1")
    message = refused(capsys, "run", "a duck", *words)
    assert f"stage {stage}: reference.normal_weight 1 has no effect" in message
    given = Path("red.png")
    reference = limbeck.ImageReference(given, normal=given, normal_weight=1.0)
    with pytest.raises(ValueError, match=r"reference\.normal_weight 1 has no effect"):
        limbeck.distill("a duck", preset=preset, reference=reference, out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["red.png"]


@pytest.mark.parametrize("command", ["run", "sweep"])
@pytest.mark.parametrize("model", ["world", "gaussians", "stabilityai/stable-diffusion-2-1-base"])
@pytest.mark.parametrize(
    ("preset", "fitting"),
    [
        ("mvdream", "ashawkey/mvdream-sd2.1-diffusers"),
        ("zero123", "kxic/zero123-xl"),
        ("imagedream", "ashawkey/imagedream-ipmv-diffusers"),
    ],
)
def test_a_recipe_for_another_kind_of_model_refuses_it_before_it_is_loaded(
    preset: str,
    fitting: str,
    model: str,
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limbeck.priors.loading, "load", None)
    message = refused(capsys, command, "a duck", "--preset", preset, "--model", model)
    assert f"preset {preset} is for another kind of model than {model}: use --model " in message
    assert fitting in message and not any(tmp_path.iterdir())


def test_python_refuses_it_too(tmp_path: Path) -> None:
    import limbeck as lb

    with pytest.raises(ValueError, match="preset mvdream is for another kind of model than world"):
        lb.distill("a duck", preset="mvdream", model="world", out=tmp_path / "run")
    with pytest.raises(ValueError, match="needs a model that sees several views at once"):
        lb.distill("a duck", preset="mvdream", model=lb.load("gaussians"))
    assert not any(tmp_path.iterdir())


def test_models_that_nobody_knows_are_looked_at_after_loading() -> None:
    for preset in (MVDreamPreset(), Zero123Preset()):
        preset.check_model("nobody/unknown")
        for stage in preset.stages(("a duck",)).values():
            preset.check_model(stage.model)
    MVDreamPreset(size="full").check_model("world-mv")
    DreamFusionPreset().check_model("world")


def test_a_critic_that_splits_groups_of_views_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limbeck.priors.loading, "load", None)
    line = "run duck --representation nerf --cameras around --method vsd"
    message = refused(capsys, *line.split(), "--method.critic.training.batch-size", "6")
    assert "batch_size 6 splits groups of 4 views: use a multiple of 4, or 0" in message
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("preset", ["dreamfusion", "mvdream"])
def test_a_prompt_that_names_a_view_is_refused_in_3d(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limbeck.priors.loading, "load", None)
    message = refused(capsys, "run", "a duck, side view", "--preset", preset)
    assert 'names the view "side view", but a 3D run shows the object from all sides' in message
    assert not any(tmp_path.iterdir())
