"""Contact sheets, 3D reports and the detection of collapsed runs."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from ball_representation import Ball
from html_page import HtmlPage
from painted_ball import Painted
from PIL import Image
from rich.console import Console

from limbeck.cli.main import main
from limbeck.config.scheduled_numbers import ScheduledNumber
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.methods.sds import SDS
from limbeck.metrics.run_scores import score_run
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import Render
from limbeck.representations.nerf import NeRF
from limbeck.representations.pixels import Pixels
from limbeck.runs import contact_sheets, recorder, snapshots_2d
from limbeck.runs.contact_sheets import (
    arrange_step_images,
    channel_images,
    render_channels,
    render_particles,
    sheet_columns,
)
from limbeck.runs.images import VIEW_NAMES, save_final_images
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.report.pages import write_report
from limbeck.runs.report.run_data import RunData, read_run_data
from limbeck.system.checkpoint import read_metadata
from limbeck.training.collapse import DegenerateRunError
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

NO_VIEW_PROMPTS = ("", "", "", "")


def experiment_3d(**changes):
    settings = {
        "prompts": ("a red disc", "a blue ring"),
        "model": "gaussians",
        "method": SDS(7.5),
        "representation": Ball(),
        "cameras": Orbit(per_particle=2, view_prompts=NO_VIEW_PROMPTS),
        "particles": 2,
        "steps": 6,
    }
    return Experiment(**settings | changes)


def experiment_2d(**changes):
    return Experiment(("a red disc",), model="gaussians", particles=3, **changes)


def record_run(e, folder, **options):
    console = Console(file=io.StringIO(), width=400)
    recording = RecordingOptions(**options)
    return record(e, colored_shapes(size=12), folder, recording, console=console)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("3d") / "a run, of 2"
    record_run(experiment_3d(), folder, image_every=3)
    return folder


def test_the_x0_of_a_step_are_those_of_its_guidance_scale(tmp_path, monkeypatch):
    predict, scales = snapshots_2d.guided_prediction, []

    def predicted(*args):
        scales.append(args[-1])
        return predict(*args)

    monkeypatch.setattr(snapshots_2d, "guided_prediction", predicted)
    method = SDS(ScheduledNumber("linear 50 1"))
    record_run(experiment_2d(method=method, steps=5), tmp_path / "run", image_every=2)
    assert scales == [method.at(progress).guidance for progress in (0.25, 0.75, 1.0)]


# Contact sheets


def test_3d_particles_are_rendered_from_all_views_particle_by_particle():
    run = Run(experiment_3d(), colored_shapes(size=12))
    with torch.no_grad():
        run.representation.params["radius"][1].fill_(0.3)
    images = render_particles(run).images()
    assert set(images) == {"", "normal", "depth", "alpha"}
    assert all(image.shape == (16, 3, 12, 12) for image in images.values())
    assert sheet_columns(run) == len(VIEW_NAMES) == 4
    coverage = images["alpha"].mean((1, 2, 3)).view(4, 4)
    assert coverage[1].max() < coverage[[0, 2, 3]].min() / 2
    assert torch.equal(images["alpha"][:, 0], images["alpha"][:, 1])


@pytest.mark.parametrize(
    ("model", "own", "expected"),
    [
        ((64, 64), (0, 0), (256, 256)),
        ((64, 64), (64, 96), (256, 384)),
        ((64, 64), (512, 256), (512, 256)),
    ],
)
def test_final_images_have_the_aspect_ratio_of_the_scored_ones(model, own, expected):
    assert contact_sheets.final_size(sized_run(model, NeRF(size=own))) == expected


def sized_run(model_size, representation, particles=None) -> Run:
    prior = SimpleNamespace(image_size=model_size, size_multiple=8)
    e = SimpleNamespace(representation=representation)
    return cast(Run, SimpleNamespace(prior=prior, experiment=e, representation=particles))


def test_2d_particles_have_one_image_each():
    run = Run(experiment_2d(representation=Pixels()), colored_shapes(size=12))
    images = render_particles(run).images()
    assert set(images) == {""} and images[""].shape == (3, 3, 12, 12) and sheet_columns(run) == 3


def test_channels_have_the_documented_colors():
    camera = turntable_cameras(1, 0.0, 3.6, 40.0)
    alpha = torch.tensor([[1.0, 1.0, 0.5, 0.0]]).view(1, 1, 1, 4)
    normal = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, 1, 0], [0, 0, 0]]).T.reshape(1, 3, 1, 4)
    depth = torch.tensor([[3.6, 1.0, 3.6, 0.0]]).view(1, 1, 1, 4)
    prior, image = colored_shapes(size=12), torch.rand(1, 3, 1, 4)
    render = Render(image, "image", alpha, depth, normal)
    out = channel_images(render_channels(render, prior), camera)
    expected = torch.tensor([[0.5, 0.5, 1], [0, 0.5, 0.5], [0.75, 1, 0.75], [1, 1, 1]])
    assert torch.allclose(out["normal"][0, :, 0].T, expected, atol=1e-6)
    middle, yellow = torch.tensor([0.127, 0.566, 0.551]), torch.tensor([0.993, 0.906, 0.144])
    expected = torch.stack([middle, yellow, 0.5 * middle + 0.5, torch.ones(3)])
    assert torch.allclose(out["depth"][0, :, 0].T, expected, atol=0.01)
    assert out["alpha"][0, 0, 0].tolist() == [1, 1, 0.5, 0]
    assert set(channel_images(render_channels(Render(image, "image"), prior), camera)) == {""}


def test_step_images_of_3d_particles_stay_in_row_order_and_2d_ones_go_to_their_particle():
    images = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    run = Run(experiment_3d(batch_size=2), colored_shapes(size=12))
    arranged, columns = arrange_step_images(run, images, [0, 0, 3, 3])
    assert torch.equal(arranged, images) and columns == 2
    run = Run(experiment_2d(batch_size=2), colored_shapes(size=12))
    arranged, columns = arrange_step_images(run, images[:2], [2, 0])
    assert columns == 3
    assert torch.equal(arranged[2], images[0]) and torch.equal(arranged[0], images[1])
    assert bool((arranged[1] == 0.5).all())


def diversity(images, per_prompt, views):
    return score_run(images, ["x"], per_prompt, views)["prompts"][0].get("diversity")


def test_diversity_compares_the_same_view_of_different_particles():
    ramp = torch.linspace(0, 1, 4).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    assert diversity(torch.cat([ramp, ramp]), 8, 4) == 0
    assert diversity(torch.cat([ramp, ramp]), 8, 1) > 0.3
    assert diversity(torch.cat([ramp, ramp * 0]), 8, 4) == pytest.approx(0.5)
    assert diversity(ramp, 4, 4) is None
    with pytest.raises(ValueError, match="4"):
        score_run(ramp[:3], ["x"], 3, 4)


def test_final_images_are_named_by_view(tmp_path):
    save_final_images(tmp_path, torch.zeros(8, 3, 5, 5), 8, VIEW_NAMES)
    views = ("front", "right-side", "back", "left-side")
    expected = {f"00-0{k}-{view}.png" for k in (0, 1) for view in views}
    assert {path.name for path in (tmp_path / "final").iterdir()} == expected
    with Image.open(tmp_path / "final.png") as sheet:
        assert sheet.size == (4 * 5 + 3 * 2, 2 * 5 + 2)  # one row per particle


# Report of a 3D run


def test_a_3d_run_leaves_contact_sheets_turntables_and_stills(finished):
    kinds = ("", "-normal", "-depth", "-alpha", "-x0", "-gradient")
    expected = {"gradient-scale.json"} | {f"step-00000{kind}.png" for kind in kinds[:4]}
    expected |= {f"step-{step:05d}{kind}.png" for step in (3, 6) for kind in kinds}
    assert {path.name for path in (finished / "images").iterdir()} == expected
    for name in ("step-00006.png", "step-00006-normal.png"):
        with Image.open(finished / "images" / name) as sheet:
            assert sheet.size == (4 * 12 + 3 * 2, 4 * 12 + 3 * 2)
    with Image.open(finished / "images" / "step-00006-x0.png") as sheet:
        assert sheet.size == (2 * 12 + 2, 4 * 12 + 3 * 2)  # two views of every particle
    turntable = list((finished / "turntable").iterdir())
    videos = [path for path in turntable if path.suffix in (".mp4", ".webp")]
    assert len(videos) == 4 == len([path for path in turntable if path.suffix == ".png"])
    assert min(path.stat().st_size for path in videos) > 1000
    with Image.open(finished / "progress.webp") as animation:
        assert animation.n_frames == 3


def test_the_diversity_of_a_3d_run_is_that_of_its_final_images(finished):
    """RMS difference of the two particles of a prompt, mean over the four views."""
    rows = json.loads((finished / "scores.json").read_text())["prompts"]
    for prompt, row in enumerate(rows):
        distances = []
        for view in ("front", "right-side", "back", "left-side"):
            paths = (finished / "final" / f"{prompt:02d}-{i:02d}-{view}.png" for i in range(2))
            one, other = (np.asarray(Image.open(path), dtype=float) / 255 for path in paths)
            distances.append(np.sqrt(np.mean((one - other) ** 2)))
        # files are rounded to 8 bits
        assert row["diversity"] == pytest.approx(np.mean(distances), abs=1 / 255)
        assert row["diversity"] > 2 / 255
    assert len(rows) == 2


def test_the_report_names_the_views_in_order(finished):
    finals = [images for _, images in read_run_data(finished).finals()]
    captions = [[image.caption for image in images] for images in finals]
    assert captions == [[*VIEW_NAMES, *VIEW_NAMES]] * 2
    page = HtmlPage(finished / "report.html")
    for text in ("Turntable", "Normals", "Depth", "Opacity"):
        assert text in page.text
    assert page.text.count("One row per particle: front, right side, back, left side.") == 1
    assert "One row per prompt" not in page.text
    assert "film of steps 0 to 6" in page.text


def test_a_report_shows_few_sheets_of_views_and_many_single_images(tmp_path):
    def headed(name: str, num_steps: int, kind: str) -> HtmlPage:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "run.yaml").write_text("prompts: [a mug]\nsteps: 60\n", encoding="utf-8")
        for step in range(num_steps):
            for suffix in ("", kind):
                image = Image.new("RGB", (8, 8))
                image.save(folder / "images" / f"step-{step:05d}{suffix}.png")
        return HtmlPage(write_report([folder]))

    views = headed("views", 11, "-alpha")
    assert views.tags.count("img") == 2 * 6
    assert "step 0" in views.text and "step 10" in views.text and "step 1\n" not in views.text
    single = headed("single", 11, "-x0")
    assert single.tags.count("img") == 2 * 11


def test_many_prompts_with_a_particle_each_make_wide_sheets(tmp_path):
    prompts = [f"object {i}" for i in range(9)]
    data = RunData(tmp_path, False, "", {"prompts": prompts, "particles": 1})
    assert data.images_per_row == 8 and data.has_wide_sheets
    lone = RunData(tmp_path, False, "", {"prompts": prompts[:1], "particles": 1})
    assert lone.images_per_row == 1 and not lone.has_wide_sheets


def test_the_report_links_to_the_videos(finished, tmp_path):
    page = HtmlPage(finished / "report.html")
    videos = [source for source in page.sources if not source.startswith("data:")]
    assert len(videos) == 4 and videos[0].startswith("turntable/00-00.")
    assert all((finished / video).exists() for video in videos)
    other = tmp_path / "other"
    page = HtmlPage(write_report([finished], other / "page.html"))
    for video in [source for source in page.sources if not source.startswith("data:")]:
        assert "%20" in video
        assert (other / video.replace("%20", " ").replace("%2C", ",")).resolve().exists()


def test_plots_of_a_3d_run_are_titled(finished):
    text = (finished / "report.html").read_text()
    for title in ("Opacity, mean", "Opacity at the image border", "Image contrast"):
        assert title in text


# Collapsed runs


def empty_run(**changes):
    return experiment_3d(representation=Ball(radius=-0.5), **changes)


def test_an_empty_run_stops_with_its_cause_and_keeps_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.0)
    with pytest.raises(DegenerateRunError, match=r"step 10: the scene is empty: 0\S* %") as first:
        record_run(empty_run(steps=100), tmp_path / "run")
    assert first.value.step == 10 and "rate" in first.value.cause
    # metrics are written in the background, so the run may be a few steps ahead
    assert 10 <= read_metadata(tmp_path / "run" / "checkpoint.safetensors")["step"] < 100
    with pytest.raises(DegenerateRunError) as second:  # from the metrics in the file
        record_run(empty_run(steps=100), tmp_path / "run")
    assert str(second.value) == str(first.value)


def test_an_empty_run_continues_if_asked_to(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.0)
    e = empty_run(steps=14, particles=1, prompts=("a red disc",))
    with pytest.raises(DegenerateRunError):
        record_run(e, tmp_path / "run")
    assert record_run(e, tmp_path / "run", stop_on_collapse=False).exists()


def test_the_command_line_reports_a_collapse_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", 0.0)
    helpers = Path(__file__).parents[1] / "helpers"
    argv = ["run", "a red disc", "--model", "gaussians", "--device", "cpu", "--steps", "40"]
    argv += ["--representation", f"{helpers / 'ball_representation.py'}:Ball"]
    argv += ["--representation.radius", "-0.5", "--out", str(tmp_path / "run")]
    argv += ["--cameras", "orbit", "--cameras.view-prompts", *NO_VIEW_PROMPTS]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.strip().splitlines()[-1].startswith("limbeck: error: step 10: the scene is empty")
    assert "Traceback" not in error and "--no-stop-on-collapse" in error
    assert error.count("the scene is empty") == 1
    assert main([*argv, "--no-stop-on-collapse"]) == 0


@pytest.mark.parametrize(
    ("model", "seconds", "expected"),
    [
        ((64, 64), 1e9, (512, 512)),
        ((96, 64), 1e9, (768, 512)),
        ((12, 12), 1e9, (96, 96)),  # eight times at most
        ((512, 512), 1e9, (512, 512)),
        ((64, 64), 0.0, None),
    ],
)
def test_films_have_512_pixels_if_they_take_no_minute(
    model, seconds, expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheets, "_FILM_SECONDS", seconds)
    run = sized_run(model, NeRF(), Painted((8, 8), 1, "surface"))
    assert contact_sheets.film_size(run, turntable_cameras(1, 15, 3.6, 40), 1) == expected


def test_films_that_take_longer_have_256_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of 512 takes 2 s here, a smaller one nothing."""
    clock = iter([0.0, 0.0, 0.0, 2.0])
    monkeypatch.setattr(contact_sheets.time, "perf_counter", lambda: next(clock))
    run = sized_run((64, 64), NeRF(), Painted((8, 8), 1, "surface"))
    assert contact_sheets.film_size(run, turntable_cameras(1, 15, 3.6, 40), 1) == (256, 256)


@pytest.mark.parametrize(("count", "is_shown"), [(2, False), (3, True)])
def test_the_page_shows_no_animation_of_two_images(count, is_shown, tmp_path):
    (tmp_path / "images").mkdir()
    for step in range(count):
        (tmp_path / "images" / f"step-{step:04d}.png").touch()
    (tmp_path / "progress.webp").write_bytes(b"frames")
    assert bool(RunData(tmp_path, False, "", {}).animation()) == is_shown
