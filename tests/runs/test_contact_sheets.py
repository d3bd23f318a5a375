"""The end of a 3D run: sheets from named sides, its page with films, and what stops it on the way."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from ball_representation import Ball
from html_page import HtmlPage

import limbeck.runs.recorder as recording
from limbeck.cli.main import main
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.methods.sds import SDS
from limbeck.metrics.run_scores import score_run
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import Render
from limbeck.representations.pixels import Pixels
from limbeck.runs.contact_sheets import (
    arrange_step_images,
    channel_images,
    render_channels,
    render_particles,
    sheet_columns,
)
from limbeck.runs.recorder import record
from limbeck.runs.report.pages import write_report
from limbeck.runs.report.run_data import read_run_data
from limbeck.system.checkpoint import read_metadata
from limbeck.runs.images import VIEW_NAMES, save_final_images
from limbeck.training.collapse import DegenerateRunError
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

SILENT = ("", "", "", "")


def solid(**changes):
    plain = {"prompts": ("a red disc", "a blue ring"), "model": "gaussians", "method": SDS(7.5), "representation": Ball(),
             "cameras": Orbit(per_particle=2, view_prompts=SILENT), "particles": 2, "steps": 6}  # fmt: skip
    return Experiment(**plain | changes)


def go(e, folder, **more):
    console = Console(file=io.StringIO(), width=400)
    return record(
        e, colored_shapes(size=12), folder, console=console, **more
    ), console.file.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solid") / "a run, of 2"
    go(solid(), folder, image_every=3)
    return folder


# what is pictured


def test_a_solid_is_shown_from_its_sides_particle_by_particle():
    run = Run(solid(), colored_shapes(size=12))
    with torch.no_grad():
        run.representation.parts["radius"][1].fill_(0.3)
    seen = render_particles(run).images()
    assert set(seen) == {"", "normal", "depth", "alpha"} and all(
        images.shape == (16, 3, 12, 12) for images in seen.values()
    )
    assert sheet_columns(run) == len(VIEW_NAMES) == 4
    covered = seen["alpha"].mean((1, 2, 3)).view(4, 4)
    assert covered[1].max() < covered[[0, 2, 3]].min() / 2
    assert torch.equal(seen["alpha"][:, 0], seen["alpha"][:, 1])


def test_a_picture_is_shown_as_it_is():
    run = Run(
        Experiment(("a red disc",), model="gaussians", representation=Pixels(), particles=3),
        colored_shapes(size=12),
    )
    seen = render_particles(run).images()
    assert set(seen) == {""} and seen[""].shape == (3, 3, 12, 12) and sheet_columns(run) == 3


def test_planes_have_the_colours_they_say():
    camera = turntable_cameras(1, 0.0, 3.6, 40.0)
    alpha = torch.tensor([[1.0, 1.0, 0.5, 0.0]]).view(1, 1, 1, 4)
    normal = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0], [0, 0, 0]]).T.reshape(1, 3, 1, 4)
    depth = torch.tensor([[3.6, 1.0, 3.6, 0.0]]).view(1, 1, 1, 4)
    prior, image = colored_shapes(size=12), torch.rand(1, 3, 1, 4)
    out = channel_images(
        render_channels(Render(image, "image", alpha, depth, normal), prior), camera
    )
    expected = torch.tensor([[0.5, 0.5, 1], [0, 0.5, 0.5], [0.75, 1, 0.75], [1, 1, 1]])
    assert torch.allclose(out["normal"][0, :, 0].T, expected, atol=1e-6)
    middle, yellow = torch.tensor([0.127, 0.566, 0.551]), torch.tensor([0.993, 0.906, 0.144])
    expected = torch.stack([middle, yellow, 0.5 * middle + 0.5, torch.ones(3)])
    assert torch.allclose(out["depth"][0, :, 0].T, expected, atol=0.01)
    assert out["alpha"][0, 0, 0].tolist() == [1, 1, 0.5, 0]
    assert set(channel_images(render_channels(Render(image, "image"), prior), camera)) == {""}


def test_the_rows_of_a_step_are_shown_one_by_one_where_a_particle_is_seen_twice():
    images = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    run = Run(solid(batch_size=2), colored_shapes(size=12))
    rows, wide = arrange_step_images(run, images, [0, 0, 3, 3])
    assert torch.equal(rows, images) and wide == 2
    flat = Run(
        Experiment(("a red disc",), model="gaussians", particles=3, batch_size=2),
        colored_shapes(size=12),
    )
    rows, wide = arrange_step_images(flat, images[:2], [2, 0])
    assert (
        wide == 3
        and torch.equal(rows[2], images[0])
        and torch.equal(rows[0], images[1])
        and bool((rows[1] == 0.5).all())
    )


def test_diversity_is_of_the_same_side_of_different_particles():
    ramp = torch.linspace(0, 1, 4).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    same = score_run(torch.cat([ramp, ramp]), ["x"], 8, num_views=4)["prompts"][0]
    assert (
        same["diversity"] == 0
        and score_run(torch.cat([ramp, ramp]), ["x"], 8)["prompts"][0]["diversity"] > 0.3
    )
    other = score_run(torch.cat([ramp, ramp * 0]), ["x"], 8, num_views=4)["prompts"][0]
    assert (
        other["diversity"] == pytest.approx(0.5)
        and "diversity" not in score_run(ramp, ["x"], 4, num_views=4)["prompts"][0]
    )
    with pytest.raises(ValueError, match="1 prompts and 4 views"):
        score_run(ramp[:3], ["x"], 3, num_views=4)


def test_files_are_named_after_their_sides(tmp_path):
    save_final_images(tmp_path, torch.zeros(8, 3, 5, 5), 8, VIEW_NAMES)
    assert {p.name for p in (tmp_path / "final").iterdir()} == {
        f"00-0{k}-{side}.png"
        for k in (0, 1)
        for side in ("front", "right-side", "back", "left-side")
    }
    with Image.open(tmp_path / "final.png") as sheet:
        assert sheet.size == (4 * 5 + 3 * 2, 2 * 5 + 2)  # a row per particle


# the page


def test_a_run_of_a_solid_leaves_sheets_films_and_stills(finished):
    kinds = ("", "-normal", "-depth", "-alpha", "-x0", "-gradient")
    expected = {
        f"step-{step:05d}{kind}.png"
        for step in (0, 3, 6)
        for kind in kinds[: 4 if step == 0 else 6]
    }
    assert {p.name for p in (finished / "images").iterdir()} == expected | {"gradient-scale.json"}
    with (
        Image.open(finished / "images" / "step-00006.png") as sheet,
        Image.open(finished / "images" / "step-00006-normal.png") as two,
    ):
        assert sheet.size == two.size == (4 * 12 + 3 * 2, 4 * 12 + 3 * 2)
    with Image.open(finished / "images" / "step-00006-x0.png") as sheet:
        assert sheet.size == (2 * 12 + 2, 4 * 12 + 3 * 2)  # two views of every particle
    films = [p for p in (finished / "turntable").iterdir() if p.suffix in (".mp4", ".webp")]
    assert (
        len(films) == 4 == len(list((finished / "turntable").glob("*.png")))
        and min(p.stat().st_size for p in films) > 1000
    )
    with Image.open(finished / "progress.webp") as film:
        assert film.n_frames == 3
    assert json.loads((finished / "scores.json").read_text())["prompts"][0]["diversity"] >= 0


def test_the_page_names_sides_in_order_and_shows_the_films_beside_it(finished, tmp_path):
    prompts = [images for _, images in read_run_data(finished).finals()]
    assert [[image.caption for image in images] for images in prompts] == [
        [*VIEW_NAMES, *VIEW_NAMES]
    ] * 2
    page = HtmlPage(finished / "report.html")
    films = [source for source in page.sources if not source.startswith("data:")]
    assert (
        len(films) == 4
        and films[0].startswith("turntable/00-00.")
        and all((finished / film).exists() for film in films)
    )
    for word in (
        "All around",
        "Normals",
        "Depth",
        "Opacity",
        "One row a particle: front, right side, back, left side.",
    ):
        assert word in page.text
    assert "One row a prompt" not in page.text
    elsewhere = HtmlPage(write_report([finished], tmp_path / "other" / "page.html"))
    for film in [source for source in elsewhere.sources if not source.startswith("data:")]:
        assert (
            "%20" in film
            and (tmp_path / "other" / film.replace("%20", " ").replace("%2C", ","))
            .resolve()
            .exists()
        )


def test_curves_name_what_they_show(finished):
    text = (finished / "report.html").read_text()
    assert (
        "Opacity, mean" in text
        and "Opacity at the border" in text
        and "Contrast of the picture" in text
    )


# what stops a run


def test_a_run_of_nothing_stops_with_its_cause_and_keeps_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 0.0)
    e = solid(representation=Ball(radius=-0.5), steps=100)
    with pytest.raises(
        DegenerateRunError, match=r"step 10: the scene is empty: 0\S* % of the picture is covered"
    ) as caught:
        go(e, tmp_path / "run")
    assert caught.value.step == 10 and "rate" in caught.value.cause
    assert (
        10 <= read_metadata(tmp_path / "run" / "checkpoint.safetensors")["step"] < 100
    )  # figures are written beside the steps
    with pytest.raises(
        DegenerateRunError, match="step 10: "
    ) as again:  # the figures are those of the file
        go(e, tmp_path / "run")
    assert str(again.value) == str(caught.value)


def test_it_goes_on_when_told_to_and_a_last_step_is_no_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 0.0)
    e = solid(representation=Ball(radius=-0.5), steps=14, particles=1, prompts=("a red disc",))
    with pytest.raises(DegenerateRunError):
        go(e, tmp_path / "run")
    page, _ = go(e, tmp_path / "run", stop_on_collapse=False)
    assert page.exists()


def test_the_command_ends_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 0.0)
    own = Path(__file__).parents[1] / "helpers" / "ball_representation.py"
    argv = [
        "run",
        "a red disc",
        "--model",
        "gaussians",
        "--device",
        "cpu",
        "--steps",
        "40",
        "--out",
        str(tmp_path / "run"),
    ]
    argv += ["--representation", f"{own}:Ball", "--representation.radius", "-0.5"]
    argv += ["--cameras", "orbit", "--cameras.view-prompts", *SILENT]
    assert main(argv) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert err[-1].startswith(
        "limbeck: step 10: the scene is empty"
    ) and "Traceback" not in "".join(err)
    assert "--no-diagnose" in "".join(err)
    assert main([*argv, "--no-diagnose"]) == 0
