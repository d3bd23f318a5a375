"""3D snapshots, the browser viewer, and turntables."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from painted_ball import RADIUS, Ball, Painted, ball, cloud, paint
from PIL import Image
from tiny_pipeline import max_difference, row_rng

import limbeck
from limbeck import Experiment, Run
from limbeck.cli.commands import run as run_command
from limbeck.cli.commands.view import ViewOptions, serve
from limbeck.cli.main import main
from limbeck.config import yaml as config
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.export.export import with_vertex_colors
from limbeck.graphics.export.writers import srgb_to_linear
from limbeck.graphics.geometry.assets import Splats
from limbeck.metrics.heldout_views import LIGHT_DIRECTION
from limbeck.priors.loading import load
from limbeck.runs.images import image_grid
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.reopen import particle_names, reopen_run, step_cameras
from limbeck.runs.report import pages
from limbeck.runs.snapshots_3d import SnapshotFolder, read_snapshot, save_snapshot
from limbeck.runs.turntable import (
    TurntableCamera,
    TurntableFrames,
    colorize_depth,
    enlarge_frames,
    render_frames,
    save_stills,
    save_turntable,
)
from limbeck.runs.viewer import (
    _ACES_INPUT,
    _ACES_OUTPUT,
    Viewer,
    inverse_tone_mapping,
    mesh_to_glb,
    prompts_html,
    quaternions_to_matrices,
    splat_colors,
    splat_covariances,
    to_opencv,
)
from limbeck.training.resources import ResourcePlan

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment(
        ("red disc", "blue ring"),
        model="gaussians",
        representation=Ball(),
        cameras=Orbit(per_particle=2),
        particles=2,
        batch_size=2,
        steps=4,
    )


@pytest.fixture(scope="module")
def folder(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_folder = tmp_path_factory.mktemp("runs") / "ball"
    record(experiment, load("gaussians"), run_folder, RecordingOptions(image_every=2))
    return run_folder


def splats_experiment() -> Experiment:
    return Experiment(("red disc",), model="gaussians", representation=Ball(kind="splats"))


# Snapshots


def test_a_run_saves_every_particle_when_it_saves_images(
    experiment: Experiment, folder: Path
) -> None:
    steps = SnapshotFolder(folder).steps()
    assert list(steps) == [0, 2, 4]
    assert all(list(files) == particle_names(experiment) for files in steps.values())
    final = reopen_run(folder, "cpu").representation
    for i, name in enumerate(particle_names(experiment)):
        first, last = read_snapshot(steps[0][name]), read_snapshot(steps[4][name])
        assert torch.equal(last.vertices, ball(2).vertices)
        assert torch.equal(last.faces, ball(2).faces)
        tint = final.params["tint"][i].detach()
        assert max_difference(last.colors, paint(ball(2).vertices, tint)) <= 0.5 / 255 + 1e-6
        assert max_difference(first.colors, paint(ball(2).vertices)) <= 0.5 / 255 + 1e-6
    assert not list((folder / "assets").glob("*.part"))


def test_step_cameras_are_those_of_the_run(experiment: Experiment) -> None:
    run = Run(experiment, load("gaussians"))
    for step in range(4):
        inputs = run.advance().inputs
        particle, camera = step_cameras(experiment, step)
        assert camera is not None and torch.equal(particle, inputs.particle)
        assert torch.equal(camera.pose, inputs.camera.pose)
        assert torch.equal(camera.fov, inputs.camera.fov)


def test_snapshots_do_not_change_a_run(experiment: Experiment, folder: Path) -> None:
    run = Run(experiment, load("gaussians"))
    for _ in range(4):
        run.advance()
    recorded = reopen_run(folder, "cpu").representation
    pairs = zip(run.representation.parameters(), recorded.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_splats_are_saved_as_splats(tmp_path: Path) -> None:
    save_snapshot(tmp_path, splats_experiment(), Painted((8, 8), 1, "splats"), 7)
    splats = read_snapshot(SnapshotFolder(tmp_path).steps()[7]["00-00"])
    assert isinstance(splats, Splats) and max_difference(splats.means, cloud().means) < 1e-6


def test_other_files_are_ignored(tmp_path: Path) -> None:
    assert SnapshotFolder(tmp_path).steps() == {}
    (tmp_path / "assets").mkdir()
    for name in ("step-00002-00-00.ply.part", "step-x.ply", "mine.ply"):
        (tmp_path / "assets" / name).touch()
    for name in ("step-100000-00-01.ply", "step-00009-00-01.ply"):
        (tmp_path / "assets" / name).touch()
    assert list(SnapshotFolder(tmp_path).steps()) == [9, 100000]


# Scene data for viser


def test_opencv_cameras_look_in_the_same_direction() -> None:
    camera = Orbit(up_perturb=0.3, center_perturb=0.2, camera_perturb=0.1).sample(6, row_rng(6))
    quats, positions = to_opencv(camera)
    matrices, pose = quaternions_to_matrices(torch.tensor(quats)), camera.pose.double()
    assert max_difference(matrices[:, :, 2], -pose[:, :3, 2]) < 1e-6, "forward is +z"
    assert max_difference(matrices[:, :, 1], -pose[:, :3, 1]) < 1e-6, "down is +y"
    assert max_difference(torch.tensor(positions), camera.eye) == 0


def test_covariances_and_colors_of_splats() -> None:
    splats = cloud()
    variances, axes = torch.linalg.eigh(splat_covariances(splats))
    assert max_difference(variances.sqrt(), splats.scales.sort(1).values) < 1e-4
    radial = torch.nn.functional.normalize(splats.means, dim=1)
    assert (axes[:, :, 0] * radial).sum(1).abs().min() > 0.999, "the thin axis is radial"
    normals = splat_colors(splats, "normals")
    assert max_difference(normals, (radial + 1) / 2) < 0.01, "normals point outwards"
    assert torch.equal(splat_colors(splats, "color"), splats.colors)
    gray = splat_colors(splats, "textureless")
    lamp = torch.nn.functional.normalize(torch.tensor(LIGHT_DIRECTION), dim=0)
    assert (gray == gray[:, :1]).all()
    shading = 0.75 * (0.42 + 0.62 * (radial @ lamp).clamp_min(0))
    assert max_difference(gray[:, 0], shading) < 0.01


def test_shadings_of_a_mesh() -> None:
    mesh = with_vertex_colors(ball(1))
    files = {name: mesh_to_glb(mesh, name) for name in ("color", "normals", "textureless")}
    assert len(set(files.values())) == 3
    unlit = {name: b"KHR_materials_unlit" in data for name, data in files.items()}
    assert unlit == {"color": True, "normals": True, "textureless": False}


def tone_mapping(light: torch.Tensor) -> torch.Tensor:
    """ACES tone mapping of three.js, before the sRGB transfer function."""
    v = light / 0.6 @ torch.tensor(_ACES_INPUT).double().T
    y = (v * (v + 0.0245786) - 0.000090537) / (v * (0.983729 * v + 0.4329510) + 0.238081)
    return (y @ torch.tensor(_ACES_OUTPUT).double().T).clamp(0, 1)


def test_colors_survive_the_tone_mapping_of_viser() -> None:
    colors = torch.cartesian_prod(*[torch.linspace(0, 1, 6)] * 3)
    displayed = tone_mapping(inverse_tone_mapping(colors).double())
    assert max_difference(displayed, srgb_to_linear(colors.double())) < 1e-4


# Viewer


def test_the_viewer_follows_the_folder(
    experiment: Experiment, folder: Path, tmp_path: Path
) -> None:
    run_folder = tmp_path / "ball"
    shutil.copytree(folder, run_folder)
    last_files = sorted((run_folder / "assets").glob("step-00004-*"))
    for path in last_files:
        path.rename(path.with_suffix(".later"))
    viewer = Viewer(run_folder, experiment, 18765)
    try:
        assert viewer.address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(viewer.address) as page:
            assert b"<html" in page.read(1000).lower()
        assert viewer.note.content == "**step 2 of 4**"
        for path in last_files:
            path.with_suffix(".later").rename(path)
        viewer.refresh()
        assert viewer.note.content == "**step 4 of 4**", "the newest snapshot stays selected"
        viewer.step.value = 0
        viewer.draw()
        assert viewer.note.content == "**step 0 of 4**"
        new_file = run_folder / "assets" / "step-00005-00-00.ply"
        new_file.write_bytes(last_files[0].read_bytes())
        viewer.refresh()
        assert viewer.note.content == "**step 0 of 4**", "an older snapshot stays selected"
        viewer.step.value, viewer.particle.value = 3, "01-01"
        viewer.draw()
        assert viewer.note.content == "**no snapshot yet**"
    finally:
        viewer.server.stop()


def write_stage(experiment: Experiment, source: Path, folder: Path, step: int) -> None:
    """Write a stage with one snapshot."""
    (folder / "assets").mkdir(parents=True)
    snapshot = folder / "assets" / f"step-{step:05d}-00-00.ply"
    snapshot.write_bytes((source / "assets" / "step-00004-00-00.ply").read_bytes())
    (folder / "run.yaml").write_text(config.to_yaml(experiment))


def test_one_viewer_follows_the_stages_of_a_preset(
    experiment: Experiment, folder: Path, tmp_path: Path
) -> None:
    write_stage(experiment, folder, tmp_path / "1-field", 2)
    viewer = Viewer(tmp_path, experiment, 18770)
    try:
        address = viewer.address
        assert not viewer.stage.visible and viewer.note.content == "**step 2 of 4**"
        second = replace(experiment, steps=9, particles=1)
        write_stage(second, folder, tmp_path / "2-geometry", 7)
        viewer.refresh()
        assert viewer.stage.visible and viewer.stage.value == "2-geometry"
        assert viewer.address == address and viewer.note.content == "**step 7 of 9**"
        assert viewer.particle.options == ("00-00", "01-00")
        viewer.stage.value = "1-field"
        assert viewer.note.content == "**step 2 of 4**"
        assert viewer.particle.options == ("00-00", "00-01", "01-00", "01-01")
        write_stage(experiment, folder, tmp_path / "10-texture", 1)
        viewer.refresh()
        assert viewer.stage.value == "1-field", "an earlier stage stays selected"
        assert viewer.stage.options == ("1-field", "2-geometry", "10-texture")
    finally:
        viewer.server.stop()


def test_a_preset_with_several_stages_has_one_viewer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events: list[str] = []
    init_from: list[Path | None] = []

    @contextmanager
    def open_viewer(folder: Path, _):
        events.append(f"open {folder.name}")
        yield
        events.append("close")

    def run_one(
        stage: Experiment, _options, out: Path, _command, viewer: bool, *_rest: object
    ) -> ResourcePlan:
        events.append(f"{out.name} {viewer}")
        init_from.append(getattr(stage.representation, "init_from", None))
        return ResourcePlan(0, 0, 0, 0, 0, None, stage.steps, seconds=0.01)

    monkeypatch.setattr(run_command, "open_viewer", open_viewer)
    monkeypatch.setattr(run_command, "run_one", run_one)
    # of stages that never ran
    monkeypatch.setattr(pages, "write_recipe_report", lambda *_: None)
    monkeypatch.setattr("limbeck.runs.best_stage.choose_stage", lambda *_: [])
    car = tmp_path / "car"
    argv = ["run", "a red car", "--preset", "prolificdreamer", "--preset.last-stage", "texture"]
    argv += ["--out", str(car), "--viewer"]
    assert main(argv) == 0
    assert events[0] == "open car" and events[-1] == "close"
    stages = [event.removesuffix(" False") for event in events[1:-1]]
    assert len(stages) == 3 and [name[:2] for name in stages] == ["1-", "2-", "3-"]
    assert init_from == [None, car / stages[0], car / stages[1]]
    events.clear()
    init_from.clear()
    assert main([*argv, "--dry-run"]) == 0 and len(events) == 3 and "close" not in events
    assert init_from == [None] * 3, "a dry run writes no folder to start from"
    assert "total: 1,050 steps in 3 stages, about 10 s" in capsys.readouterr().out


def test_a_run_without_snapshots_is_shown_from_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "ball"
    shutil.copytree(folder, run_folder, ignore=shutil.ignore_patterns("assets"))
    stop = threading.Event()
    stop.set()
    serve(ViewOptions((run_folder,), port=18775, device="cpu"), stop)
    assert list(SnapshotFolder(run_folder).steps()) == [4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": ()}, "one run folder, not 0"),
        ({"port": 0}, "1 to 65535, not 0"),
        ({"port": 70000}, "not 70000"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewOptions(**{"runs": (Path("a"),)} | options)


# Turntables


@pytest.fixture
def painted() -> Painted:
    return Painted((32, 32), 2, "surface")


def turntable_frames(painted: Painted, count: int) -> TurntableFrames:
    """Frames of particle 0 with the default camera."""
    camera = turntable_cameras(count, 15, 3.6, 40)
    depth_range = TurntableCamera().depth_range
    return render_frames(painted, load("gaussians"), 0, camera, depth_range)


def test_frames_have_color_normals_depth_and_opacity(painted: Painted) -> None:
    orbit = TurntableCamera(elevation=0, distance=3, fov=40)
    camera = turntable_cameras(4, 0, 3, 40)[0:1]
    front = render_frames(painted, load("gaussians"), 1, camera, orbit.depth_range)
    color, normal, depth, opacity = (channel[0, :, 16, 16] for channel in front.channels())
    assert max_difference(color, paint(torch.tensor([[0.0, 0.0, RADIUS]]))[0]) < 0.05
    assert max_difference(normal, torch.tensor([0.5, 0.5, 1.0])) < 0.05, "towards the camera: +z"
    half = 3 * np.tan(np.radians(20))
    nearest = torch.full((1, 1, 1, 1), 3 - RADIUS)
    expected = colorize_depth(nearest, (3 - half, 3 + half))[0, :, 0, 0]
    assert max_difference(depth, expected) < 0.05
    assert opacity.eq(1).all()
    *corners, opacity = (channel[0, :, 0, 0] for channel in front.channels())
    assert all(corner.eq(1).all() for corner in corners), "empty space is white"
    assert opacity.eq(0).all()


def test_the_depth_scale_is_clipped() -> None:
    depth = torch.tensor([0.0, 2.0, 3.0, 4.0, 9.0]).view(5, 1, 1, 1)
    before, near, _, far, behind = colorize_depth(depth, (2.0, 4.0))
    assert torch.equal(before, near) and torch.equal(far, behind)
    assert near[0] > 0.9 and near[2] < 0.2, "near is yellow"
    assert far[0] < 0.3 and far[2] > 0.3, "far is blue"


def test_a_video_has_even_sizes_and_every_frame(painted: Painted, tmp_path: Path) -> None:
    painted.size = (33, 21)
    path = save_turntable(painted, load("gaussians"), 0, tmp_path / "t.mp4", frames=6)
    assert path == tmp_path / "t.mp4" and [p.name for p in tmp_path.iterdir()] == ["t.mp4"]
    with av.open(str(path)) as file:
        codec = file.streams.video[0].codec_context
        colors = (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range)
        assert colors == (1, 1, 1, 1)  # BT.709 in limited range, not guessed from the size
        video = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    expected = enlarge_frames(turntable_frames(painted, 6).side_by_side())
    assert video.shape == expected.shape and len(video) == 6
    assert video.shape[1] % 2 == 0 and video.shape[2] % 2 == 0
    error = np.abs(video.astype(float) - expected).mean((1, 2, 3))
    assert error.max() < 4, error
    other_frames = [
        np.abs(video[a].astype(float) - expected[b]).mean()
        for a, b in itertools.permutations(range(6), 2)
    ]
    assert min(other_frames) > 2 * error.max(), "frames differ"


def test_without_av_a_webp_is_written(
    painted: Painted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    messages: list[str] = []
    video = tmp_path / "t.mp4"
    path = save_turntable(painted, load("gaussians"), 0, video, frames=3, report=messages.append)
    assert path.name == "t.webp"
    assert len(messages) == 1 and "pip install av" in messages[0]
    with Image.open(path) as animation:
        assert animation.n_frames == 3 and animation.size == (6 * 32 * 4, 6 * 32)


def test_prompts_are_shown_as_they_are_and_are_no_code() -> None:
    shown = prompts_html(["a {1 + 1} <b>mug</b>"])
    assert "a {1 + 1} &lt;b&gt;mug&lt;/b&gt;" in shown and "<b>" not in shown
    assert "00 a mug" not in prompts_html(["a mug"])
    assert all(text in prompts_html(["a mug", "a car"]) for text in ("00 a mug", "01 a car"))


def test_stills_have_a_column_per_view_and_a_row_per_channel(
    painted: Painted, tmp_path: Path
) -> None:
    path = save_stills(painted, load("gaussians"), 0, tmp_path / "s.png", views=5)
    with Image.open(path) as sheet:
        assert sheet.size == (5 * 34 - 2, 4 * 34 - 2)
        pixels = np.asarray(sheet.convert("RGB"))
    normal = image_grid(turntable_frames(painted, 5).normal[1:2], 1)
    assert (pixels[34:66, 34:66] == np.asarray(normal)).all(), "second view, normals"


def test_2d_particles_have_no_turntable(tmp_path: Path) -> None:
    prior = load("gaussians")
    flat = Run(Experiment(("red disc",), model="gaussians"), prior).representation
    with pytest.raises(ValueError, match="needs opacity, depth and normals"):
        save_turntable(flat, prior, 0, tmp_path / "t.mp4")
    assert not list(tmp_path.iterdir())


# A real browser


class BrowserPage:
    """A page of a browser under the DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.last = socket, 0

    def ask(self, method: str, **params) -> dict:
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv(timeout=120))
            if answer.get("id") == self.last:
                return answer.get("result", {})

    def screenshot(self) -> np.ndarray:
        while not (data := self.ask("Page.captureScreenshot", format="png").get("data")):
            time.sleep(0.5)  # refused while the page changes
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) / 255


@contextmanager
def browser(profile: Path, address: str):
    from websockets.sync.client import connect

    assert CHROMIUM is not None
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--window-size=800,600",
        "--remote-debugging-port=0",
        "--no-first-run",
        "--disable-dev-shm-usage",
    ]
    command = [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "DevTools listening" in line)
            port = line.split(":")[-1].split("/")[0]
            # keep reading, or the pipe fills up
            threading.Thread(target=process.stderr.read, daemon=True).start()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as response:
                pages = [page for page in json.load(response) if page["type"] == "page"]
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
                page = BrowserPage(socket)
                page.ask("Page.enable")
                page.ask("Page.navigate", url=address)
                yield page
        finally:
            process.terminate()


def count_pixels(image: np.ndarray, color, tolerance: float = 0.04) -> int:
    """Number of pixels of about this color."""
    return int((np.abs(image - np.asarray(color)).max(-1) < tolerance).sum())


def count_gray(image: np.ndarray) -> int:
    gray = image.max(-1) - image.min(-1) < 0.03
    return int((gray & (image.mean(-1) > 0.2) & (image.mean(-1) < 0.9)).sum())


def count_dark(image: np.ndarray) -> int:
    """Number of dark pixels in columns without text."""
    return int((image[:, 320:455].max(-1) < 0.3).sum())


def wait_for(page: BrowserPage, condition, seconds: float = 180) -> np.ndarray:
    """Take screenshots until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition(image := page.screenshot()):
        if time.monotonic() > deadline:
            if os.environ.get("LIMBECK_KEEP_SCREENSHOTS"):
                Image.fromarray((image * 255).astype(np.uint8)).save("screenshot.png")
            raise AssertionError("not seen in time")
        time.sleep(0.5)
    return image


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_colors_shape_and_cameras(
    folder: Path, experiment: Experiment, tmp_path: Path
) -> None:
    tint = reopen_run(folder, "cpu").representation.params["tint"][0].detach()
    front = paint(torch.tensor([[0.0, 0.2, 0.75]]), tint)[0]
    viewer = Viewer(folder, experiment, 18785)
    # from here the training cameras are visible too
    viewer.server.initial_camera.position = (0.0, 3.0, 11.0)
    try:
        with browser(tmp_path / "profile", viewer.address) as page:
            image = wait_for(page, lambda p: count_pixels(p, front) > 30)
            rows, columns = np.nonzero((np.abs(image - front.numpy()) < 0.04).all(-1))
            assert abs(rows.mean() / len(image) - 0.5) < 0.05, "centered vertically"
            assert abs(columns.mean() - 400) < 20, "centered horizontally"
            viewer.shading.value = "normals"
            wait_for(page, lambda p: count_pixels(p, (0.5, 0.63, 0.98)) > 30)
            viewer.shading.value = "textureless"
            wait_for(page, lambda p: count_pixels(p, front) < 5 and count_gray(p) > 1000)
            wait_for(page, lambda p: count_gray(p) > 1000 and count_dark(p) < 20)
            viewer.cameras.value = True
            wait_for(page, lambda p: count_dark(p) > 60)
    finally:
        viewer.server.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_splats(tmp_path: Path) -> None:
    e = splats_experiment()
    save_snapshot(tmp_path, e, Painted((8, 8), 1, "splats"), 1)
    front = paint(torch.tensor([[0.0, 0.2, 0.75]]))[0]
    viewer = Viewer(tmp_path, e, 18795)
    try:
        with browser(tmp_path / "profile", viewer.address) as page:
            wait_for(page, lambda p: count_pixels(p, front, 0.1) > 300)
    finally:
        viewer.server.stop()


@pytest.mark.slow
def test_a_run_with_viewer_serves_a_page_while_it_runs(tmp_path: Path) -> None:
    """The viewer is a process that prints its address and ends with the run."""
    source = str(Path(limbeck.__file__).parents[1])
    ball_class = f"{Path(__file__).parents[1] / 'helpers' / 'painted_ball.py'}:Ball"
    argv = ["run", "red disc", "--model", "gaussians", "--representation", ball_class]
    argv += ["--steps", "100000", "--image-every", "20", "--viewer", "--out", "r"]
    with subprocess.Popen(
        [sys.executable, "-m", "limbeck", *argv],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "limbeck: r at http://" in line)
            address = line.split(" at ")[1].split(";")[0]
            with urllib.request.urlopen(address) as page:
                assert page.status == 200
        finally:
            process.send_signal(2)
            process.communicate(timeout=60)
    assert process.returncode == 130
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=2)


def test_a_page_that_waits_for_a_run_says_so(tmp_path, monkeypatch, capsys):
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        serve(ViewOptions((tmp_path / "typo",), live=True), threading.Event())
    assert f"waiting for a run in {tmp_path / 'typo'}" in capsys.readouterr().err
