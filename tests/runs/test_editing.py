"""Image editing: files of an edit, masks, aspect ratios, defaults per method, errors."""

import importlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_families import write_tiny_pipeline

import limbeck as lb
from limbeck.cli import main as cli
from limbeck.config import yaml as config
from limbeck.config.discovery import choices
from limbeck.diffusion.model_options import Model, RuntimeOptions
from limbeck.diffusion.vocabulary import write_vocabulary
from limbeck.distillation.timesteps.deterministic import FixedTimesteps, TrailingTimesteps
from limbeck.distillation.weights import AlphaSigmaWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.base import EditMethod
from limbeck.methods.cds import CDS
from limbeck.methods.dds import DDS
from limbeck.methods.dvrf import DVRF
from limbeck.methods.flow_edit import FlowEdit
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.priors.exact import colored_shapes
from limbeck.priors.families import flow_family
from limbeck.priors.loading import load
from limbeck.representations.inpainting import Inpainting
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.representations.strokes import Strokes
from limbeck.runs import editing
from limbeck.runs.edit_inputs import EditInputs
from limbeck.runs.edit_options import EditOptions, default_method, default_options
from limbeck.runs.editing import (
    default_folder,
    edit_experiments,
    gradient_map,
    notify_inputs,
    rehearse_edits,
)
from limbeck.system.folder_lock import folder_lock, refuse_folder_in_use
from limbeck.system.image_files import read_image
from limbeck.system.notices import Notice, collect_notices
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD, Adam
from limbeck.training.trainer import Run
from limbeck.world.vocabulary import world_vocabulary

METHODS = choices(EditMethod)
KINDS = ("before", "after", "difference", "gradient")


def save_noise(path: Path, width: int, height: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def save_mask(path: Path, width: int, height: int, left: int) -> Path:
    """White from column ``left`` on."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, left:] = 255
    Image.fromarray(mask).save(path)
    return path


@pytest.fixture
def photo(tmp_path):
    return save_noise(tmp_path / "photo.png", 16, 16)


@pytest.fixture
def mask(tmp_path):
    """Divides a latent cell: columns 9 to 15 may change."""
    return save_mask(tmp_path / "mask.png", 16, 16, 9)


def edit_inputs(*images: Path, **changes) -> EditInputs:
    prompts = {"target_prompt": ("a red mug",), "source_prompt": ("two striped cats",)}
    return EditInputs(images, **prompts | changes)


def quick_options(name: str = "dds", **changes) -> EditOptions:
    options = default_options(METHODS[name])
    method = options.method
    if isinstance(method, SDEdit):
        method = replace(method, denoise_steps=2)
    return replace(options, method=method, steps=min(options.steps, 2), **changes)


def edit_to_folder(inputs, options, prior, folder):
    console = Console(file=io.StringIO())
    return editing.edit_to_folder(inputs, options, prior, folder, console=console)


def render(representation):
    return representation.render(RenderRequest(torch.tensor([0]))).image


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# Files of an edit


@pytest.mark.parametrize("name", METHODS)
def test_an_edit_leaves_a_run_folder_with_images_of_each_kind(prior, photo, tmp_path, name):
    out = tmp_path / "out"
    page = edit_to_folder(edit_inputs(photo), quick_options(name), prior, out)
    folder = out / "edit"
    assert page == out / "report.html"
    assert {path.name for path in folder.iterdir()} == {f"00-00-{kind}.png" for kind in KINDS}
    after = pixels(folder / "00-00-after.png")
    assert (pixels(folder / "00-00-before.png") == pixels(photo)).all()
    assert (after == pixels(out / "final" / "00-00.png")).all() and (after != pixels(photo)).any()
    text = page.read_text()
    assert "<h2>Edits</h2>" in text and "two striped cats → a red mug" in text
    assert all(f"<figcaption>{kind}</figcaption>" in text for kind in KINDS)
    assert "<b>0</b><b>0.125</b><b>≥ 0.5</b>" in text  # the scale of the difference
    experiment = config.read_yaml(Experiment, out / "run.yaml")
    assert type(experiment.method) is METHODS[name]
    assert experiment.source_prompt == ("two striped cats",)


def test_several_images_and_prompts_are_one_run(prior, tmp_path):
    images = tuple(save_noise(tmp_path / f"{i}.png", 16, 16, i) for i in range(2))
    inputs = edit_inputs(*images, target_prompt=("a red mug", "low quality"))
    edit_to_folder(inputs, quick_options(particles=2), prior, tmp_path / "out")
    folder = tmp_path / "out" / "edit"
    for i in range(2):
        for k in range(2):
            assert (pixels(folder / f"{i:02d}-{k:02d}-before.png") == pixels(images[i])).all()
    assert len(list(folder.glob("*-after.png"))) == 4
    experiment = config.read_yaml(Experiment, tmp_path / "out" / "run.yaml")
    assert experiment.prompts == ("a red mug", "low quality")
    assert experiment.source_prompt == ("two striped cats",) * 2


def test_one_image_can_have_several_targets(prior, photo):
    inputs = edit_inputs(photo, target_prompt=("a red mug", "low quality"))
    (experiment,) = edit_experiments(inputs, EditOptions(), prior).values()
    assert experiment.representation.images == (photo, photo)


def test_each_aspect_ratio_is_a_run_of_its_own_and_nothing_is_stretched(prior, tmp_path):
    images = {
        f"{width}x{height}": save_noise(tmp_path / f"{width}x{height}.png", width, height)
        for width, height in ((16, 48), (32, 16), (16, 16))
    }
    out = tmp_path / "out"
    page = edit_to_folder(edit_inputs(*images.values()), quick_options(), prior, out)
    assert {path.name for path in out.iterdir()} == {*images, "report.html", ".lock"}
    for size, image in images.items():
        assert (pixels(out / size / "edit" / "00-00-before.png") == pixels(image)).all()
        assert pixels(out / size / "edit" / "00-00-after.png").shape == pixels(image).shape
    text = page.read_text()
    assert text.count("two striped cats → a red mug") == 3 and 'href="16x48/report.html"' in text


def test_edits_of_several_sizes_hold_their_common_folder(prior, photo, tmp_path, monkeypatch):
    """Between two sizes, too: the second of two commands is refused and writes nothing."""
    inputs = edit_inputs(photo, save_noise(tmp_path / "wide.png", 32, 16))
    out = tmp_path / "out"
    with folder_lock(out):
        before = sorted(out.rglob("*"))
        with pytest.raises(ValueError, match=r"out is in use by process \d+ .*--out"):
            edit_to_folder(inputs, quick_options(), prior, out)
        assert sorted(out.rglob("*")) == before
    held = []

    def edit(*arguments):
        with pytest.raises(ValueError, match="is in use"):
            refuse_folder_in_use(out)
        held.append(arguments)

    monkeypatch.setattr(editing, "run_edit", edit)
    monkeypatch.setattr(editing.pages, "write_edit_report", edit)
    edit_to_folder(inputs, quick_options(), prior, out)
    assert len(held) == 3
    refuse_folder_in_use(out)


def test_an_edit_resumes_and_other_images_of_the_same_name_are_refused(prior, photo, tmp_path):
    out = tmp_path / "out"
    edit_to_folder(edit_inputs(photo), quick_options(), prior, out)
    after = (out / "edit" / "00-00-after.png").read_bytes()
    edit_to_folder(edit_inputs(photo), quick_options(), prior, out)
    assert (out / "edit" / "00-00-after.png").read_bytes() == after
    with pytest.raises(ValueError, match="holds another run: method"):
        edit_to_folder(edit_inputs(photo), quick_options("pds"), prior, out)
    save_noise(photo, 16, 16, seed=9)
    with pytest.raises(ValueError, match="holds edits of other images with the same names"):
        edit_to_folder(edit_inputs(photo), quick_options(), prior, out)


def test_an_edit_that_cannot_go_on_names_its_own_command(prior, photo, tmp_path):
    inputs = edit_inputs(photo)
    edit_to_folder(inputs, quick_options("flow-edit"), prior, tmp_path / "out")
    longer = replace(quick_options("flow-edit"), steps=9)
    with pytest.raises(ValueError, match="start over: the same limbeck edit with another --out"):
        edit_to_folder(inputs, longer, prior, tmp_path / "out")


def test_the_default_folder_depends_on_options_and_file_contents(photo):
    first = default_folder(edit_inputs(photo), EditOptions())
    assert first.parts[0] == "edits" and first.name.startswith("a-red-mug-dds-")
    assert default_folder(edit_inputs(photo), EditOptions()) == first
    assert default_folder(edit_inputs(photo), EditOptions(seed=1)) != first
    save_noise(photo, 16, 16, seed=9)
    assert default_folder(edit_inputs(photo), EditOptions()) != first


def test_a_gradient_map_is_the_norm_of_the_mean_gradient_of_the_first_steps(prior, photo):
    (e,) = edit_experiments(edit_inputs(photo), quick_options(), prior).values()
    run = Run(e, prior)
    mean = sum(run.advance().gradient for _ in range(2)) / 2
    assert torch.allclose(gradient_map(e, prior), mean.norm(dim=1), atol=1e-6)


def test_a_finished_edit_is_left_alone(prior, photo, tmp_path, monkeypatch):
    edit_to_folder(edit_inputs(photo), quick_options(), prior, tmp_path / "out")
    monkeypatch.delattr("limbeck.runs.editing.gradient_map")  # not computed again
    edit_to_folder(edit_inputs(photo), quick_options(), prior, tmp_path / "out")
    (tmp_path / "out" / "edit" / "00-00-gradient.png").unlink()
    with pytest.raises(NameError, match="gradient_map"):  # what was cut off is completed
        edit_to_folder(edit_inputs(photo), quick_options(), prior, tmp_path / "out")


# Masks


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"irfds"}))  # which refuses masks
def test_masked_pixels_and_latents_do_not_change(prior, photo, mask, tmp_path, name):
    inputs, out = edit_inputs(photo, mask=(mask,)), tmp_path / "out"
    edit_to_folder(inputs, quick_options(name), prior, out)
    before, after = pixels(photo), pixels(out / "edit" / "00-00-after.png")
    assert (after[:, :9] == before[:, :9]).all() and (after[:, 9:] != before[:, 9:]).any()
    (e,) = edit_experiments(inputs, quick_options(name), prior).values()
    run = Run(e, prior)
    first = render(run.representation).detach().clone()
    parameter = run.representation.inner.particles[0].detach().clone()
    for _ in range(e.steps):
        run.advance()
    moved = (render(run.representation) != first)[0].any(0)
    assert not moved[:, :4].any() and moved[:, 4:].all()
    assert torch.equal(run.representation.inner.particles[0][..., :4], parameter[..., :4])


def test_gray_pixels_of_a_mask_change_in_part(prior, photo, tmp_path):
    path = tmp_path / "gray.png"
    Image.fromarray(np.full((16, 16), 51, np.uint8)).save(path)
    representation = Inpainting(Latents(images=(photo,)), (path,)).build(prior, 1, 0)
    first = render(representation).detach().clone()
    with torch.no_grad():
        representation.inner.particles[0].add_(1)
    assert torch.allclose(render(representation), first + 0.2, atol=1e-5)


def test_pixels_can_be_masked_too(prior, photo, mask):
    e = Experiment(
        ("a red mug",),
        source_prompt=("two striped cats",),
        method=DDS(),
        representation=Inpainting(Pixels(images=(photo,)), (mask,)),
    )
    run = Run(e, prior)
    run.advance()
    image = run.representation.images(prior, RenderRequest(torch.tensor([0])))[0]
    original = read_image(photo, (16, 16))
    assert torch.equal(image[..., :9], original[..., :9])
    assert bool((image[..., 9:] != original[..., 9:]).any())


def test_a_masked_drawing_reports_its_fit_and_writes_its_files(prior, photo, mask, tmp_path):
    strokes = Strokes(num_strokes=6, init_steps=3, images=(photo,))
    masked = Inpainting(strokes, (mask,)).build(prior, 1, 0)
    inner = strokes.build(prior, 1, 0)
    assert masked.init_message == inner.init_message != ""
    with pytest.warns(Notice, match="without its mask"):
        masked.save(tmp_path / "final", ["00-00"])
    inner.save(tmp_path, ["00-00"])
    svg = (tmp_path / "final" / "inner" / "00-00.svg").read_bytes()
    assert svg == (tmp_path / "00-00.svg").read_bytes()
    Inpainting(Latents(images=(photo,)), (mask,)).build(prior, 1, 0).save(tmp_path, ["00-00"])
    assert not (tmp_path / "inner").exists()  # latents have no files of their own


def test_a_masked_run_resumes_bit_identically(prior, photo, mask):
    options = replace(quick_options("pds"), steps=4)
    (e,) = edit_experiments(edit_inputs(photo, mask=(mask,)), options, prior).values()
    whole, first, second = (Run(e, prior) for _ in range(3))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second.load(first.tensors(), 2)
    for _ in range(2):
        second.advance()
    pairs = zip(whole.tensors().values(), second.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert config.from_yaml(Experiment, config.to_yaml(e)) == e


def test_useless_masks_are_refused(prior, photo, tmp_path):
    black = save_mask(tmp_path / "black.png", 16, 16, 16)
    inputs = edit_inputs(photo, mask=(black,))
    with pytest.raises(ValueError, match="black"):
        edit_to_folder(inputs, quick_options(), prior, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="one mask per image, not 1 masks for 0 images"):
        Inpainting(Latents(), (black,))
    with pytest.raises(ValueError, match="inner"):
        Inpainting(Latents(images=(photo,)), (black,), size=(16, 16))


# Defaults


def test_each_method_has_its_own_defaults():
    assert default_options(DDS).optimizer == default_options(CDS).optimizer == SGD()
    assert isinstance(default_options(PDS).optimizer, Adam)
    sdedit = default_options(SDEdit)
    assert (sdedit.steps, sdedit.lr) == (1, 1.0)
    assert isinstance(sdedit.timesteps, FixedTimesteps)


MODELS = {
    "small": "world",
    "diffusion": "stabilityai/stable-diffusion-2-1-base",
    "flow": "stabilityai/stable-diffusion-3-medium-diffusers",
    "flux": "black-forest-labs/FLUX.1-dev",
    "instructions": "timbrooks/instruct-pix2pix",
}


@dataclass(frozen=True)
class Bare(DDS):
    """An editing method of one's own that declares nothing."""


@dataclass(frozen=True)
class Declared(DDS):
    """One with options of its own for some kinds of models."""

    edit_recipes = {
        "small": {"method": {"eta": 0.5}, "steps": 8, "optimizer": "adam"},
        "flow": {"timesteps": {"name": "fixed", "t": 0.5}},
    }


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_a_method_of_ones_own_has_the_defaults_of_dds(model):
    dds = default_options(DDS, model)
    assert default_options(Bare, model) == replace(dds, method=Bare(dds.method.guidance))


def test_a_method_declares_its_own_defaults():
    small = default_options(Declared)
    assert small == EditOptions(Declared(eta=0.5), steps=8, optimizer=Adam())
    flow = EditOptions(Declared(), timesteps=FixedTimesteps(0.5))
    assert default_options(Declared, MODELS["flow"]) == flow
    assert default_options(Declared, MODELS["flux"]) == flow, "flux is the kind most like it"
    for kind in ("diffusion", "instructions"):
        assert default_options(Declared, MODELS[kind]).steps == 200, "that of DDS"


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
def test_the_declared_options_of_all_methods_can_be_read(model):
    for method in METHODS.values():
        assert type(default_options(method, model).method) is method


PROMPTS = ("--source-prompt", "a red disc", "--target-prompt", "a blue disc")
TOY = ("--model", "gaussians")


@pytest.mark.parametrize(
    ("argv", "options"),
    [
        (["--method", "dds"], default_options(DDS)),
        (["--method", "pds", "--lr", "0.5"], replace(default_options(PDS), lr=0.5)),
        (
            ["--method", "sdedit", "--timesteps.t", "0.4"],
            replace(default_options(SDEdit), timesteps=FixedTimesteps(0.4)),
        ),
        (
            ["--method", "dds", "--runtime.vae-slicing"],
            replace(default_options(DDS), runtime=RuntimeOptions(vae_slicing=True)),
        ),
    ],
)
def test_the_command_line_changes_the_defaults_of_the_method(
    argv, options, monkeypatch, photo, tmp_path
):
    calls = []
    monkeypatch.setattr(editing, "edit_to_folder", lambda *a, **k: calls.append(a) or tmp_path)
    loading = importlib.import_module("limbeck.priors.loading")
    monkeypatch.setattr(loading, "load", lambda *a, **k: colored_shapes(16))
    assert cli.main(["edit", str(photo), *PROMPTS, "a green disc", *argv]) == 0
    ((inputs, parsed, _, _),) = calls
    assert parsed == options
    assert inputs == EditInputs((photo,), ("a blue disc", "a green disc"), ("a red disc",))


def test_edit_from_python(prior, photo):
    method = lb.methods.PDS(guidance=3.0)
    result = lb.edit(photo, "a red mug", "two striped cats", prior, method=method, steps=2)
    assert len(result.images) == 1 and result.images[0].shape == (3, 16, 16)
    assert "<h2>Edits</h2>" in result.report().read_text()
    experiment = result.runs[0].experiment
    assert experiment.method == method and experiment.steps == 2
    assert isinstance(experiment.optimizer, Adam)


# Errors: one line, exit code 2, before anything is written


@pytest.fixture
def error(capsys, tmp_path):
    """Run ``limbeck edit`` and return its error message."""

    def run(*argv: str) -> str:
        code = cli.main(["edit", *argv, "--out", str(tmp_path / "out")])
        lines = capsys.readouterr().err.strip().splitlines()
        assert code == 2 and len(lines) == 1 and not (tmp_path / "out").exists(), (code, lines)
        return lines[0]

    return run


def test_unusable_files_are_refused(error, photo, tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("no image")
    missing = tmp_path / "none.png"
    assert str(missing) in error(str(missing), *PROMPTS)
    assert str(text) in error(str(text), *PROMPTS)
    tiny = save_noise(tmp_path / "tiny.png", 3, 2)
    expected = "is 3 x 2 pixels, too small to edit: the short side must be at least 16"
    assert expected in error(str(tiny), *PROMPTS)
    long = save_noise(tmp_path / "long.png", 500, 20)
    expected = "is 500 x 20 pixels: crop it until the long side is at most 4"
    assert expected in error(str(long), *PROMPTS)
    mask = save_mask(tmp_path / "mask.png", 10, 10, 2)
    message = error(str(photo), *PROMPTS, "--mask", str(mask))
    assert "mask.png is 10 x 10 pixels, but" in message
    assert "photo.png is 16 x 16 pixels: a mask must have the size of its image" in message
    assert "no.png" in error(str(photo), *PROMPTS, "--mask", str(tmp_path / "no.png"))


def test_unusable_prompts_and_methods_are_refused(error, photo):
    source, target = PROMPTS[:2], PROMPTS[2:]
    image = str(photo)
    assert "an image is missing: limbeck edit photo.png" in error(*PROMPTS)
    assert "--target-prompt is missing" in error(image, *source)
    assert "--target-prompt is missing" in error(image, *source, "--target-prompt", " ")
    message = error(image, "--source-prompt", "a", "b", "--target-prompt", "a", "b", "c")
    assert "2 of --source-prompt for 3 edits: give one for all or one for each" in message
    missing = error(image, *target, *TOY)
    assert missing.startswith("limbeck: error: --source-prompt is missing: say what")
    assert "the images show now" in missing
    assert "dds" in missing and "--representation" not in missing
    assert "CDS" in error(image, *PROMPTS, *TOY, "--method", "cds")
    assert "'ddx'" in error(image, *PROMPTS, "--method", "ddx")
    assert "a cat" in error(image, *source, "--target-prompt", "a cat", *TOY)


def test_sdedit_needs_no_source_prompt(photo, tmp_path):
    argv = ["edit", str(photo), "--target-prompt", "a blue disc", *TOY]
    argv += ["--method", "sdedit", "--method.denoise-steps", "2", "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    assert (tmp_path / "out" / "edit" / "00-00-after.png").is_file()


def test_the_defaults_follow_the_model(v_folder, tmp_path):
    published = EditOptions(DDS(guidance=7.5), steps=200, lr=0.05)
    assert default_options(DDS, str(v_folder)) == published
    assert default_options(CDS, "owner/name").method == CDS(guidance=7.5)
    assert default_options(SDEdit, str(v_folder)).method.guidance == 7.5
    small = default_options(DDS)
    assert (small.method.guidance, small.steps, small.lr) == (3.0, 40, 0.2)
    tuned = tmp_path / "fine-tuned"
    tuned.mkdir()
    write_vocabulary(world_vocabulary(), tuned)
    for model in ("world", "gaussians", "dataset:photos", str(tuned), Model(str(tuned))):
        assert default_options(DDS, model) == small


FLOWS = {
    "sd3": (FlowEdit(), 33, 0.66, DVRF(), DDS(guidance=7.5)),
    "flux": (FlowEdit(1.0, 1.0), 24, 24 / 28, DVRF(1.0, 1.0), DDS(guidance=1.0)),
}


@pytest.mark.parametrize("family", FLOWS)
def test_flows_are_edited_in_their_own_form(family, tmp_path, photo):
    folder = write_tiny_pipeline(family, tmp_path / family)
    flow_edit, steps, start, dvrf, dds = FLOWS[family]
    published = {"sd3": "stabilityai/stable-diffusion-3-medium-diffusers"}
    published["flux"] = "black-forest-labs/FLUX.1-dev"
    prior = load(Model(str(folder), resolution=16 if family == "flux" else 0), "cpu")
    for model in (str(folder), Model(published[family]), prior):
        assert default_method(model) == "flow-edit"
        options = default_options(FlowEdit, model)
        assert (options.method, options.steps, options.lr) == (flow_edit, steps, 1.0)
        assert options.timesteps == TrailingTimesteps(start) and options.optimizer == SGD()
        assert default_options(DVRF, model).method == dvrf
        in_velocities = default_options(DDS, model)
        assert in_velocities.method == dds
        assert in_velocities.weight == AlphaSigmaWeight(-1.0, 0.0)
    quick = replace(default_options(FlowEdit, prior), steps=2, model=prior)
    edit_to_folder(edit_inputs(photo), quick, prior, tmp_path / "out")
    after = pixels(tmp_path / "out" / "edit" / "00-00-after.png")
    assert (after != pixels(photo)).any()


def test_models_that_are_no_flows_keep_their_editing_method(v_folder):
    for model in ("gaussians", "gaussians-flow", str(v_folder), "owner/name"):
        assert default_method(model) == "dds"
    assert default_method("world") == "flow-edit"
    assert flow_family("black-forest-labs/FLUX.2-klein-base-4B") == "flow"
    assert flow_family("black-forest-labs/FLUX.1-schnell") == "flux"
    assert flow_family("stable-diffusion-v1-5/stable-diffusion-v1-5") is None


@pytest.mark.parametrize(("is_distilled", "kind"), [(True, "flux"), (False, "flow")])
def test_the_distilled_klein_is_told_from_its_base_by_its_files(is_distilled, kind, tmp_path):
    folder = write_tiny_pipeline("klein", tmp_path / "klein")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"is_distilled": is_distilled}))
    assert flow_family(str(folder)) == kind
    assert flow_family(load(Model(str(folder), resolution=16), "cpu")) == kind


def test_a_large_photo_is_noticed_before_the_edit(tmp_path, capsys):
    photo = save_noise(tmp_path / "photo.png", 900, 600)
    argv = ["edit", str(photo), "--source-prompt", "a red mug", "--target-prompt", "a blue mug"]
    assert cli.main([*argv, "--steps", "1", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err.splitlines()[0] == (
        f"limbeck: {photo} (900 x 600): edited and written at 96 x 64 pixels, the size of this "
        "model; a --mask, white where it may change, keeps the rest as it is"
    )


def test_images_that_are_not_shrunk_give_no_notice(prior, photo, mask, tmp_path):
    with collect_notices() as notices:
        notify_inputs(edit_inputs(photo), prior)
    assert notices == []
    large = [save_noise(tmp_path / f"{i}.png", 64, 32) for i in range(3)]
    masks = (save_mask(tmp_path / "wide.png", 64, 32, 9),)
    with collect_notices() as notices:
        notify_inputs(edit_inputs(photo, *large, mask=masks), prior)
    assert notices == [
        f"{large[0]} (64 x 32) and 2 more images: edited and written at 32 x 16 pixels, the size "
        "of this model"
    ]


def test_equal_prompts_give_a_notice(prior, photo):
    same = EditInputs((photo,), ("a red mug",), ("a red mug",))
    with collect_notices() as notices:
        notify_inputs(same, prior)
    assert notices == [
        '"a red mug" is the source and the target prompt: there is nothing to change'
    ]


def test_a_dry_run_of_edits_writes_nothing(photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["edit", str(photo), *PROMPTS, *TOY, "--dry-run"]
    assert cli.main(argv) == 0
    line = capsys.readouterr().out
    assert line.startswith("plan: about ") and "40 steps of" in line
    assert {path.name for path in tmp_path.iterdir()} == {"photo.png"}
    out = tmp_path / "out"
    assert cli.main([*argv, "--out", str(out), "--method", "cds"]) == 2 and not out.exists()


def test_a_dry_run_plans_every_size(prior, photo, tmp_path):
    wide = save_noise(tmp_path / "wide.png", 32, 16)
    folder = tmp_path / "out"
    plans = rehearse_edits(edit_inputs(photo, wide), quick_options(), prior, folder)
    assert set(plans) == {folder / "16x16", folder / "32x16"} and not folder.exists()
    assert plans[folder / "32x16"].flops > 1.5 * plans[folder / "16x16"].flops
