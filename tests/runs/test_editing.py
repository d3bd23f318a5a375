"""limbeck edit: what is left behind, masks that hold, pictures of every aspect, defaults that follow the method, refusals."""

import importlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import limbeck as lb
from limbeck.cli import main as cli
from limbeck.config import yaml as config
from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.methods.cds import CDS
from limbeck.methods.dds import DDS
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.priors.exact import colored_shapes
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import read_image
from limbeck.representations.inpainting import Inpainting
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.runs.editing import (
    EditInputs,
    EditOptions,
    default_folder,
    default_options,
    edit_experiments,
    edit_to_folder,
)
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam, SGD
from limbeck.training.trainer import Run

METHODS = {"dds": DDS, "pds": PDS, "cds": CDS, "sdedit": SDEdit}
SILENT = Console(file=io.StringIO())


def save(path: Path, width: int, height: int, seed: int = 0) -> Path:
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
    return save(tmp_path / "photo.png", 16, 16)


def what(*pictures: Path, **options) -> EditInputs:
    return EditInputs(
        pictures, **{"target": ("a red mug",), "source": ("two striped cats",)} | options
    )


def quick(name: str = "dds", **options) -> EditOptions:
    how = default_options(METHODS[name])
    method = replace(how.method, denoise_steps=2) if isinstance(how.method, SDEdit) else how.method
    return replace(how, method=method, steps=min(how.steps, 2), **options)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# What is left behind


@pytest.mark.parametrize("name", METHODS)
def test_an_edit_leaves_a_run_folder_with_before_after_difference_and_gradient(
    prior, photo, tmp_path, name
):
    page = edit_to_folder(what(photo), quick(name), prior, tmp_path / "out", console=SILENT)
    out, inside = tmp_path / "out", tmp_path / "out" / "edit"
    assert page == out / "report.html"
    assert {p.name for p in inside.iterdir()} == {
        f"00-00-{k}.png" for k in ("before", "after", "difference", "gradient")
    }
    assert (pixels(inside / "00-00-before.png") == pixels(photo)).all()
    assert (pixels(inside / "00-00-after.png") == pixels(out / "final" / "00-00.png")).all()
    assert (pixels(inside / "00-00-after.png") != pixels(photo)).any()
    text = page.read_text()
    assert "<h2>Edits</h2>" in text and "two striped cats → a red mug" in text
    assert all(
        f"<figcaption>{k}</figcaption>" in text
        for k in ("before", "after", "difference", "gradient")
    )
    experiment = config.read_yaml(Experiment, out / "run.yaml")
    assert type(experiment.method) is METHODS[name] and experiment.source_prompt == (
        "two striped cats",
    )


def test_many_pictures_and_texts_in_one_run(prior, tmp_path):
    files = tuple(save(tmp_path / f"{i}.png", 16, 16, i) for i in range(2))
    wanted = what(*files, target=("a red mug", "low quality"))
    edit_to_folder(wanted, quick(particles=2), prior, tmp_path / "out", console=SILENT)
    inside = tmp_path / "out" / "edit"
    for i in range(2):
        for k in range(2):
            assert (pixels(inside / f"{i:02d}-{k:02d}-before.png") == pixels(files[i])).all()
    assert len(list(inside.glob("*-after.png"))) == 4
    experiment = config.read_yaml(Experiment, tmp_path / "out" / "run.yaml")
    assert (
        experiment.prompts == ("a red mug", "low quality")
        and experiment.source_prompt == ("two striped cats",) * 2
    )


def test_one_picture_for_several_targets(prior, photo):
    (experiment,) = edit_experiments(
        what(photo, target=("a red mug", "low quality")), EditOptions(), prior
    ).values()
    assert experiment.representation.images == (photo, photo)


def test_pictures_of_several_aspects_are_a_run_each_on_one_page_and_nothing_is_squashed(
    prior, tmp_path
):
    tall, wide, square = (
        save(tmp_path / "t.png", 16, 48),
        save(tmp_path / "w.png", 32, 16),
        save(tmp_path / "s.png", 16, 16),
    )
    out = tmp_path / "out"
    page = edit_to_folder(what(tall, wide, square), quick(), prior, out, console=SILENT)
    assert {p.name for p in out.iterdir()} == {"16x48", "32x16", "16x16", "report.html"}
    for folder, file in (("16x48", tall), ("32x16", wide), ("16x16", square)):
        assert (pixels(out / folder / "edit" / "00-00-before.png") == pixels(file)).all()
        assert pixels(out / folder / "edit" / "00-00-after.png").shape == pixels(file).shape
    text = page.read_text()
    assert text.count("two striped cats → a red mug") == 3 and 'href="16x48/report.html"' in text


def test_the_same_command_goes_on_and_other_pictures_of_the_same_name_are_refused(
    prior, photo, tmp_path
):
    out = tmp_path / "out"
    edit_to_folder(what(photo), quick(), prior, out, console=SILENT)
    after = (out / "edit" / "00-00-after.png").read_bytes()
    edit_to_folder(what(photo), quick(), prior, out, console=SILENT)
    assert (out / "edit" / "00-00-after.png").read_bytes() == after
    with pytest.raises(ValueError, match="holds another run: method"):
        edit_to_folder(what(photo), quick("pds"), prior, out, console=SILENT)
    save(photo, 16, 16, seed=9)
    with pytest.raises(ValueError, match="holds edits of other pictures by the same name"):
        edit_to_folder(what(photo), quick(), prior, out, console=SILENT)


def test_the_folder_is_named_by_options_and_by_what_the_files_hold(photo):
    first = default_folder(what(photo), EditOptions())
    assert first.parts[0] == "edits" and first.name.startswith("a-red-mug-dds-")
    assert (
        default_folder(what(photo), EditOptions())
        == first
        != default_folder(what(photo), EditOptions(seed=1))
    )
    save(photo, 16, 16, seed=9)
    assert default_folder(what(photo), EditOptions()) != first


def test_a_gradient_map_is_the_mean_gradient_of_the_first_steps(prior, photo):
    from limbeck.runs.editing import gradient_map

    (e,) = edit_experiments(what(photo), quick(), prior).values()
    run = Run(e, prior)
    mean = sum(run.advance().gradient for _ in range(2)) / 2
    assert torch.allclose(gradient_map(e, prior), mean.norm(dim=1), atol=1e-6)


# Masks


@pytest.mark.parametrize("name", METHODS)
def test_outside_the_mask_pixels_are_kept_exactly_and_the_particle_does_not_move(
    prior, photo, tmp_path, name
):
    mask = save_mask(tmp_path / "mask.png", 16, 16, 9)  # through the middle of a latent's place
    wanted, out = what(photo, mask=(mask,)), tmp_path / "out"
    edit_to_folder(wanted, quick(name), prior, out, console=SILENT)
    before, after = pixels(photo), pixels(out / "edit" / "00-00-after.png")
    assert (after[:, :9] == before[:, :9]).all() and (after[:, 9:] != before[:, 9:]).any()
    (e,) = edit_experiments(wanted, quick(name), prior).values()
    run = Run(e, prior)
    first = run.representation.render(RenderRequest(torch.tensor([0]))).image.detach().clone()
    parameter = run.representation.inner.particles[0].detach().clone()
    run.advance()
    run.advance() if e.steps > 1 else None
    moved = (run.representation.render(RenderRequest(torch.tensor([0]))).image != first)[0].any(0)
    assert not moved[:, :4].any() and moved[:, 4:].all()
    assert torch.equal(run.representation.inner.particles[0][..., :4], parameter[..., :4])


def test_grey_changes_in_part(prior, photo, tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((16, 16), 51, np.uint8)).save(path)
    start = Inpainting(Latents(images=(photo,)), (path,)).build(prior, 1, 0)
    first = start.render(RenderRequest(torch.tensor([0]))).image.detach().clone()
    with torch.no_grad():
        start.inner.particles[0] += 1
    assert torch.allclose(
        start.render(RenderRequest(torch.tensor([0]))).image, first + 0.2, atol=1e-5
    )


def test_pixels_can_be_masked_too(prior, photo, tmp_path):
    mask = save_mask(tmp_path / "mask.png", 16, 16, 9)
    masked = Inpainting(Pixels(images=(photo,)), (mask,))
    e = Experiment(
        ("a red mug",), source_prompt=("two striped cats",), method=DDS(), representation=masked
    )
    run = Run(e, prior)
    run.advance()
    shown = run.representation.images(prior, RenderRequest(torch.tensor([0])))[0]
    kept = read_image(photo, (16, 16))
    assert torch.equal(shown[..., :9], kept[..., :9]) and bool(
        (shown[..., 9:] != kept[..., 9:]).any()
    )


def test_a_masked_run_goes_on_to_the_same_bits(prior, photo, tmp_path):
    mask = save_mask(tmp_path / "mask.png", 16, 16, 9)
    (e,) = edit_experiments(
        what(photo, mask=(mask,)), replace(quick("pds"), steps=4), prior
    ).values()
    whole, first, second = (Run(e, prior) for _ in range(3))
    for _ in range(4):
        whole.advance()
    first.advance()
    first.advance()
    second.load(first.tensors(), 2)
    second.advance()
    second.advance()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.tensors().values(), second.tensors().values(), strict=True)
    )
    assert config.from_yaml(Experiment, config.to_yaml(e)) == e


def test_masks_that_mean_nothing_are_refused(prior, photo, tmp_path):
    black = save_mask(tmp_path / "black.png", 16, 16, 16)
    with pytest.raises(ValueError, match="black all over"):
        edit_to_folder(what(photo, mask=(black,)), quick(), prior, tmp_path / "out", console=SILENT)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="one mask per image, not 1 masks for 0 images"):
        Inpainting(Latents(), (black,))
    with pytest.raises(ValueError, match="options of what is masked"):
        Inpainting(Latents(images=(photo,)), (black,), size=(16, 16))


# Defaults


def test_a_method_takes_its_own_defaults():
    assert default_options(DDS).optimizer == default_options(CDS).optimizer == SGD()
    assert isinstance(default_options(PDS).optimizer, Adam)
    sdedit = default_options(SDEdit)
    assert (sdedit.steps, sdedit.lr) == (1, 1.0) and isinstance(sdedit.timesteps, FixedTimesteps)
    assert all(type(default_options(m).method) is m for m in METHODS.values())


def test_the_command_line_takes_the_methods_defaults_and_what_is_said_beside(
    monkeypatch, photo, tmp_path
):
    asked, loaded = [], []
    monkeypatch.setattr(
        "limbeck.runs.editing.edit_to_folder", lambda *a, **k: asked.append(a) or tmp_path
    )
    monkeypatch.setattr(
        importlib.import_module("limbeck.priors.loading"),
        "load",
        lambda *a, **k: loaded.append(k) or colored_shapes(16),
    )
    words = [
        "edit",
        str(photo),
        "--source-prompt",
        "a red disc",
        "--target-prompt",
        "a blue disc",
        "a green disc",
    ]
    for more in (
        [],
        ["--method", "pds", "--rate", "0.5"],
        ["--method", "sdedit", "--timesteps.t", "0.4"],
        ["--runtime.vae-slicing"],
    ):
        assert cli.main([*words, *more]) == 0
    hows = [how for _, how, _, _ in asked]
    assert hows[0] == default_options(DDS)
    assert hows[1] == replace(default_options(PDS), rate=0.5)
    assert hows[2] == replace(default_options(SDEdit), timesteps=FixedTimesteps(0.4))
    assert [told["runtime"] for told in loaded] == [RuntimeOptions()] * 3 + [
        RuntimeOptions(vae_slicing=True)
    ]
    assert hows[3].runtime == RuntimeOptions(vae_slicing=True)
    assert asked[0][0] == EditInputs((photo,), ("a blue disc", "a green disc"), ("a red disc",))


def test_in_a_notebook(prior, photo, tmp_path):
    edited = lb.edit(
        photo, "a red mug", "two striped cats", prior, lb.methods.PDS(guidance=3.0), steps=2
    )
    assert len(edited.images) == 1 and edited.images[0].shape == (3, 16, 16)
    assert "<h2>Edits</h2>" in edited.report().read_text()
    experiment = edited.runs[0].experiment
    assert (
        experiment.method == PDS(guidance=3.0)
        and experiment.steps == 2
        and isinstance(experiment.optimizer, Adam)
    )


def test_names_of_the_front_door_are_functions_more_than_once():
    assert callable(lb.load) and callable(lb.load) and callable(lb.edit)


# Refusals: one line, exit 2, before anything is written


def refused(capsys, tmp_path, *argv: str) -> str:
    code = cli.main(["edit", *argv, "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and not (tmp_path / "out").exists(), (code, lines)
    return lines[0]


SAID = ("--source-prompt", "a red disc", "--target-prompt", "a blue disc")


def test_files_that_cannot_be_used(capsys, photo, tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    tiny, long = save(tmp_path / "tiny.png", 3, 2), save(tmp_path / "long.png", 500, 20)
    mask = save_mask(tmp_path / "mask.png", 10, 10, 2)
    assert f"no picture {tmp_path / 'none.png'}" in refused(
        capsys, tmp_path, str(tmp_path / "none.png"), *SAID
    )
    assert "is not a picture that can be read" in refused(capsys, tmp_path, str(text), *SAID)
    assert "is 3 x 2 pixels, too small to edit: the short side needs 16" in refused(
        capsys, tmp_path, str(tiny), *SAID
    )
    assert "is 500 x 20 pixels: cut it until the long side is at most 4" in refused(
        capsys, tmp_path, str(long), *SAID
    )
    said = refused(capsys, tmp_path, str(photo), *SAID, "--mask", str(mask))
    assert (
        "mask.png is 10 x 10 pixels, but" in said
        and "photo.png is 16 x 16: a mask has the size of its picture" in said
    )
    assert "no picture" in refused(
        capsys, tmp_path, str(photo), *SAID, "--mask", str(tmp_path / "no.png")
    )


def test_words_that_cannot_be_used(capsys, photo, tmp_path):
    p = str(photo)
    assert "a picture is missing: limbeck edit photo.png" in refused(capsys, tmp_path, *SAID)
    assert "--target-prompt is missing" in refused(
        capsys, tmp_path, p, "--source-prompt", "a red disc"
    )
    assert "--target-prompt is missing" in refused(
        capsys, tmp_path, p, "--source-prompt", "a red disc", "--target-prompt", " "
    )
    assert "2 of --source-prompt for 3 edits: give one for all or one for each" in refused(
        capsys, tmp_path, p, "--source-prompt", "a", "b", "--target-prompt", "a", "b", "c"
    )
    gaussians = ("--model", "gaussians")
    assert "this method edits: say what the pictures show with --source-prompt" in refused(
        capsys, tmp_path, p, "--target-prompt", "a blue disc", *gaussians
    )
    assert "CDS compares a network's attention" in refused(
        capsys, tmp_path, p, *SAID, *gaussians, "--method", "cds"
    )
    assert "no editing is called 'ddx'" in refused(capsys, tmp_path, p, *SAID, "--method", "ddx")
    assert "names nothing of this model" in refused(
        capsys, tmp_path, p, *SAID[:3], "a cat", *gaussians
    )


def test_sdedit_needs_no_source(photo, tmp_path):
    words = [
        "edit",
        str(photo),
        "--target-prompt",
        "a blue disc",
        "--method",
        "sdedit",
        "--method.denoise-steps",
        "2",
        "--model",
        "gaussians",
    ]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "edit" / "00-00-after.png").is_file()
