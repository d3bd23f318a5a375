"""What is left of solids on the way, shown in a browser, and filmed."""

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

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from painted_ball import RADIUS, Ball, Painted, ball, cloud, paint
from PIL import Image
from tiny_pipeline import rng, max_difference

import limbeck
from limbeck import Experiment, Run
from limbeck.cli.commands import run as run_verb
from limbeck.cli.commands.view import ViewOptions, serve
from limbeck.cli.main import main
from limbeck.config import yaml as config
from limbeck.graphics.cameras import camera as cameras
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.export.export import with_vertex_colors
from limbeck.graphics.export.writers import srgb_to_linear
from limbeck.graphics.geometry.assets import Splats
from limbeck.metrics.heldout_views import LIGHT_DIRECTION
from limbeck.priors.loading import load
from limbeck.runs.recorder import record
from limbeck.runs.reopen import particle_names, reopen_run, step_cameras
from limbeck.runs.snapshots_3d import SnapshotFolder, read_snapshot, save_snapshot
from limbeck.runs.turntable import (
    TurntableCamera,
    colorize_depth,
    enlarge_frames,
    render_frames,
    save_stills,
    save_turntable,
)
from limbeck.runs.viewer import (
    Viewer,
    _ACES_INPUT,
    _ACES_OUTPUT,
    inverse_tone_mapping,
    mesh_to_glb,
    quaternions_to_matrices,
    splat_colors,
    splat_covariances,
    to_opencv,
)
from limbeck.runs.images import image_grid

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def made() -> Experiment:
    views = Orbit(per_particle=2)
    return Experiment(
        ("red disc", "blue ring"),
        model="gaussians",
        representation=Ball(),
        cameras=views,
        particles=2,
        batch_size=2,
        steps=4,
    )


@pytest.fixture(scope="module")
def folder(made: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "ball"
    record(made, load("gaussians"), place, image_every=2)
    return place


# snapshots


def test_a_run_leaves_every_particle_at_the_times_of_its_pictures(
    made: Experiment, folder: Path
) -> None:
    found = SnapshotFolder(folder).steps()
    assert list(found) == [0, 2, 4] and all(
        list(files) == particle_names(made) for files in found.values()
    )
    kept = reopen_run(folder, "cpu").representation
    for i, name in enumerate(particle_names(made)):
        first, last = read_snapshot(found[0][name]), read_snapshot(found[4][name])
        assert torch.equal(last.vertices, ball(2).vertices) and torch.equal(
            last.faces, ball(2).faces
        )
        tint = kept.parts["tint"][i].detach()
        assert max_difference(last.colors, paint(ball(2).vertices, tint)) <= 0.5 / 255 + 1e-6
        assert max_difference(first.colors, paint(ball(2).vertices)) <= 0.5 / 255 + 1e-6
    assert not list((folder / "assets").glob("*.part"))


def test_the_cameras_told_are_those_the_run_looked_through(made: Experiment) -> None:
    run = Run(made, load("gaussians"))
    for step in range(4):
        drawn = run.advance().inputs
        view, camera = step_cameras(made, step)
        assert camera is not None and torch.equal(view, drawn.particle)
        assert torch.equal(camera.pose, drawn.camera.pose) and torch.equal(
            camera.fov, drawn.camera.fov
        )


def test_snapshots_change_no_run(made: Experiment, folder: Path) -> None:
    run = Run(made, load("gaussians"))
    for _ in range(4):
        run.advance()
    kept = reopen_run(folder, "cpu").representation
    assert all(
        torch.equal(a, b)
        for a, b in zip(run.representation.parameters(), kept.parameters(), strict=True)
    )


def test_splats_are_kept_as_splats(tmp_path: Path) -> None:
    pytest.importorskip("limbeck.graphics.geometry.gaussian_ply")
    e = Experiment(("red disc",), model="gaussians", representation=Ball(kind="splats"))
    save_snapshot(tmp_path, e, Painted((8, 8), 1, "splats"), 7)
    back = read_snapshot(SnapshotFolder(tmp_path).steps()[7]["00-00"])
    assert isinstance(back, Splats) and max_difference(back.means, cloud().mean) < 1e-6


def test_other_files_on_the_shelf_are_let_be(tmp_path: Path) -> None:
    assert SnapshotFolder(tmp_path).steps() == {}
    (tmp_path / "assets").mkdir()
    for name in (
        "step-00002-00-00.ply.part",
        "step-x.ply",
        "mine.ply",
        "step-100000-00-01.ply",
        "step-00009-00-01.ply",
    ):
        (tmp_path / "assets" / name).touch()
    assert list(SnapshotFolder(tmp_path).steps()) == [9, 100000]


# what a viewer is given


def test_cameras_as_opencv_has_them_look_the_same_way() -> None:
    camera = Orbit(up_perturb=0.3, center_perturb=0.2, camera_perturb=0.1).sample(6, rng())
    turns, places = to_opencv(camera)
    matrices = quaternions_to_matrices(torch.tensor(turns))
    assert max_difference(matrices[:, :, 2], -camera.pose[:, :3, 2].double()) < 1e-6, (
        "forward is its own +z"
    )
    assert max_difference(matrices[:, :, 1], -camera.pose[:, :3, 1].double()) < 1e-6, (
        "down is its own +y"
    )
    assert max_difference(torch.tensor(places), camera.eye) == 0


def test_covariances_and_shades_of_splats() -> None:
    splats = cloud()
    moments = splat_covariances(splats)
    value, vector = torch.linalg.eigh(moments)
    assert max_difference(value.sqrt(), splats.scale.sort(1).values) < 1e-4
    radial = torch.nn.functional.normalize(splats.mean, dim=1)
    assert (vector[:, :, 0] * radial).sum(1).abs().min() > 0.999, (
        "the thin axis is that of the ball's radius"
    )
    assert max_difference(splat_colors(splats, "normals"), (radial + 1) / 2) < 0.01, (
        "outwards everywhere"
    )
    assert torch.equal(splat_colors(splats, "colour"), splats.colour)
    grey, lamp = (
        splat_colors(splats, "textureless"),
        torch.nn.functional.normalize(torch.tensor(LIGHT_DIRECTION), dim=0),
    )
    assert (grey == grey[:, :1]).all() and max_difference(
        grey[:, 0], 0.75 * (0.42 + 0.62 * (radial @ lamp).clamp_min(0))
    ) < 0.01


def test_shadings_of_a_mesh() -> None:
    mesh = with_vertex_colors(ball(1))
    shown = {
        shading: mesh_to_glb(mesh, shading) for shading in ("colour", "normals", "textureless")
    }
    assert len(set(shown.values())) == 3
    assert [b"KHR_materials_unlit" in shown[name] for name in shown] == [True, True, False], (
        "only shape needs light"
    )


def film(light: torch.Tensor) -> torch.Tensor:
    """What three.js makes of light before it is encoded for the display."""
    v = light / 0.6 @ torch.tensor(_ACES_INPUT).double().T
    y = (v * (v + 0.0245786) - 0.000090537) / (v * (0.983729 * v + 0.4329510) + 0.238081)
    return (y @ torch.tensor(_ACES_OUTPUT).double().T).clamp(0, 1)


def test_the_page_shows_colours_as_they_are_in_spite_of_its_film() -> None:
    every = torch.cartesian_prod(*[torch.linspace(0, 1, 6)] * 3)
    assert (
        max_difference(film(inverse_tone_mapping(every).double()), srgb_to_linear(every.double()))
        < 1e-4
    )


def test_the_page_follows_the_folder(made: Experiment, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "ball"
    shutil.copytree(folder, place)
    held = sorted((place / "assets").glob("step-00004-*"))
    for path in held:
        path.rename(path.with_suffix(".later"))
    viewer = Viewer(place, made, 18765)
    try:
        assert viewer.address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(viewer.address) as page:
            assert b"<html" in page.read(1000).lower()
        assert viewer.note.content == "**step 2 of 4**"
        for path in held:
            path.with_suffix(".later").rename(path)
        viewer.refresh()
        assert viewer.note.content == "**step 4 of 4**", (
            "who looks at the newest stays at the newest"
        )
        viewer.step.value = 0
        viewer.draw()
        assert viewer.note.content == "**step 0 of 4**"
        (place / "assets" / "step-00005-00-00.ply").write_bytes(held[0].read_bytes())
        viewer.refresh()
        assert viewer.note.content == "**step 0 of 4**", "who looks back is left alone"
        viewer.step.value, viewer.particle.value = 3, "01-01"
        viewer.draw()
        assert viewer.note.content == "**nothing to see yet**"
    finally:
        viewer.server.stop()


def stage_of(made: Experiment, folder: Path, place: Path, step: int) -> None:
    """A stage begun, with one snapshot."""
    (place / "assets").mkdir(parents=True)
    (place / "assets" / f"step-{step:05d}-00-00.ply").write_bytes(
        (folder / "assets" / "step-00004-00-00.ply").read_bytes()
    )
    (place / "run.yaml").write_text(config.to_yaml(made))


def test_one_page_follows_a_recipe_through_its_stages(
    made: Experiment, folder: Path, tmp_path: Path
) -> None:
    stage_of(made, folder, tmp_path / "1-field", 2)
    viewer = Viewer(tmp_path, made, 18770)
    try:
        address = viewer.address
        assert not viewer.stage.visible and viewer.note.content == "**step 2 of 4**"
        stage_of(replace(made, steps=9, particles=1), folder, tmp_path / "2-geometry", 7)
        viewer.refresh()
        assert (
            viewer.stage.visible
            and viewer.stage.value == "2-geometry"
            and viewer.address == address
        )
        assert viewer.note.content == "**step 7 of 9**" and viewer.particle.options == (
            "00-00",
            "01-00",
        )
        viewer.stage.value = "1-field"
        assert viewer.note.content == "**step 2 of 4**" and viewer.particle.options == (
            "00-00",
            "00-01",
            "01-00",
            "01-01",
        )
        stage_of(made, folder, tmp_path / "10-texture", 1)
        viewer.refresh()
        assert viewer.stage.value == "1-field", "who looks back is left alone"
        assert viewer.stage.options == ("1-field", "2-geometry", "10-texture")
    finally:
        viewer.server.stop()


def test_a_recipe_of_several_stages_has_one_viewer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    @contextmanager
    def watching(place: Path, _):
        asked.append(f"begin {place.name}")
        yield
        asked.append("end")

    monkeypatch.setattr(run_verb, "watching", watching)
    begun: list[Path | None] = []

    def one(stage: Experiment, _place, out: Path, _command, view: bool) -> None:
        asked.append(f"{out.name} {view}")
        begun.append(getattr(stage.representation, "start", None))

    monkeypatch.setattr(run_verb, "_one", one)
    argv = ["run", "a red car", "--preset", "prolificdreamer", "--out", str(tmp_path / "car")]
    assert main([*argv, "--view"]) == 0
    assert asked == ["begin car", "1-field False", "2-geometry False", "3-texture False", "end"]
    assert begun == [None, tmp_path / "car" / "1-field", tmp_path / "car" / "2-geometry"]
    asked.clear()
    begun.clear()
    assert main([*argv, "--view", "--dry"]) == 0 and len(asked) == 3 and "end" not in asked
    assert begun == [None] * 3, "without folders there is nothing to begin with"


def test_an_old_run_without_snapshots_is_shown_from_its_checkpoint(
    folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "ball"
    shutil.copytree(folder, place, ignore=lambda *_: ["solids"])
    over = threading.Event()
    over.set()
    serve(ViewOptions((place,), port=18775, device="cpu"), over)
    assert list(SnapshotFolder(place).steps()) == [4]


@pytest.mark.parametrize(("options", "why"), [
    ({"runs": ()}, "one run folder is wanted, not 0"), ({"port": 0}, "from 1 to 65535, not 0"), ({"port": 70000}, "not 70000"),
])  # fmt: skip
def test_what_cannot_be_viewed(options: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ViewOptions(**{"runs": (Path("a"),)} | options)


# turntables


@pytest.fixture
def painted() -> Painted:
    return Painted((32, 32), 2, "surface")


def test_panels_are_what_is_seen(painted: Painted) -> None:
    looked = TurntableCamera(elevation=0, distance=3, fov=40)
    front = render_frames(
        painted,
        load("gaussians"),
        1,
        cameras.turntable_cameras(4, 0, 3, 40)[0:1],
        looked.depth_range,
    )
    middle = lambda planes: planes[0, :, 16, 16]  # noqa: E731
    assert max_difference(middle(front.color), paint(torch.tensor([[0.0, 0.0, RADIUS]]))[0]) < 0.05
    assert max_difference(middle(front.normal), torch.tensor([0.5, 0.5, 1.0])) < 0.05, (
        "+z comes towards the camera"
    )
    half = 3 * np.tan(np.radians(20))
    assert (
        max_difference(
            middle(front.depth),
            colorize_depth(torch.full((1, 1, 1, 1), 3 - RADIUS), (3 - half, 3 + half))[0, :, 0, 0],
        )
        < 0.05
    )
    assert middle(front.opacity).eq(1).all()
    corners = [planes[0, :, 0, 0] for planes in (front.color, front.normal, front.depth)]
    assert (
        all(corner.eq(1).all() for corner in corners) and front.opacity[0, :, 0, 0].eq(0).all()
    ), "nothing is white, not a colour"


def test_the_depth_scale_is_fixed() -> None:
    depth = torch.tensor([0.0, 2.0, 3.0, 4.0, 9.0]).view(5, 1, 1, 1)
    near, first, _, last, far = colorize_depth(depth, (2.0, 4.0))
    assert torch.equal(near, first) and torch.equal(last, far)
    assert first[0] > 0.9 and first[2] < 0.2 and last[0] < 0.3 and last[2] > 0.3, (
        "yellow near, blue far"
    )


def test_a_film_of_even_sides_shows_every_frame(painted: Painted, tmp_path: Path) -> None:
    painted.size = (33, 21)
    path = save_turntable(painted, load("gaussians"), 0, tmp_path / "t.mp4", frames=6)
    assert path == tmp_path / "t.mp4" and [p.name for p in tmp_path.iterdir()] == ["t.mp4"]
    film = iio.imread(path, plugin="pyav")
    wanted = enlarge_frames(
        render_frames(
            painted,
            load("gaussians"),
            0,
            cameras.turntable_cameras(6, 15, 3.6, 40),
            TurntableCamera().depth_range,
        ).side_by_side()
    )
    assert (
        film.shape == wanted.shape
        and film.shape[0] == 6
        and not film.shape[1] % 2
        and not film.shape[2] % 2
    )
    error = np.abs(film.astype(float) - wanted).mean((1, 2, 3))
    assert error.max() < 4, error
    others = [
        np.abs(film[a].astype(float) - wanted[b]).mean()
        for a, b in itertools.permutations(range(6), 2)
    ]
    assert min(others) > 2 * error.max(), "each frame is its own side"


def test_without_av_there_is_a_webp(
    painted: Painted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said: list[str] = []
    path = save_turntable(
        painted, load("gaussians"), 0, tmp_path / "t.mp4", frames=3, report=said.append
    )
    assert path.name == "t.webp" and len(said) == 1 and "pip install imageio av" in said[0]
    with Image.open(path) as film:
        assert film.n_frames == 3 and film.size == (6 * 32 * 4, 6 * 32)


def test_stills_are_a_sheet(painted: Painted, tmp_path: Path) -> None:
    path = save_stills(painted, load("gaussians"), 0, tmp_path / "s.png", views=5)
    seen = render_frames(
        painted,
        load("gaussians"),
        0,
        cameras.turntable_cameras(5, 15, 3.6, 40),
        TurntableCamera().depth_range,
    )
    with Image.open(path) as sheet:
        assert sheet.size == (5 * 34 - 2, 4 * 34 - 2)
        got = np.asarray(sheet.convert("RGB"))
    assert (got[34:66, 34:66] == np.asarray(image_grid(seen.normal[1:2], 1))).all(), (
        "second side, second row: normals"
    )


def test_a_flat_thing_has_no_turntable(tmp_path: Path) -> None:
    flat = Run(Experiment(("red disc",), model="gaussians"), load("gaussians")).representation
    with pytest.raises(ValueError, match="needs opacity, depth and normals"):
        save_turntable(flat, load("gaussians"), 0, tmp_path / "t.mp4")
    assert not list(tmp_path.iterdir())


# a real browser


class Page:
    """A page of a headless Chromium by its remote debugging."""

    def __init__(self, socket):
        self.socket, self.last = socket, 0

    def ask(self, method: str, **params) -> dict:
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv(timeout=120))
            if answer.get("id") == self.last:
                return answer.get("result", {})

    def picture(self) -> np.ndarray:
        while not (data := self.ask("Page.captureScreenshot", format="png").get("data")):
            time.sleep(0.5)  # refused while the page changes
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) / 255


@contextmanager
def browser(profile: Path, address: str):
    from websockets.sync.client import connect

    assert CHROMIUM is not None
    flags = ["--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
             "--window-size=800,600", "--remote-debugging-port=0", "--no-first-run", "--disable-dev-shm-usage"]  # fmt: skip
    with subprocess.Popen(
        [CHROMIUM, *flags, f"--user-data-dir={profile}", "about:blank"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            port = next(
                line.split(":")[-1].split("/")[0]
                for line in process.stderr
                if "DevTools listening" in line
            )
            threading.Thread(
                target=process.stderr.read, daemon=True
            ).start()  # else its chatter fills the pipe
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as listed:
                pages = [page for page in json.load(listed) if page["type"] == "page"]
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
                page = Page(socket)
                page.ask("Page.enable")
                page.ask("Page.navigate", url=address)
                yield page
        finally:
            process.terminate()


def near(
    picture: np.ndarray, colour: tuple[float, float, float] | torch.Tensor, bound: float = 0.04
) -> int:
    """Pixels of about a colour."""
    return int((np.abs(picture - np.asarray(colour)).max(-1) < bound).sum())


def wait_for(page: Page, seen, seconds: float = 180) -> np.ndarray:
    """A picture of the page as soon as ``seen`` holds of it."""
    until = time.monotonic() + seconds
    while not seen(picture := page.picture()):
        if time.monotonic() > until:
            if os.environ.get("LIMBECK_KEEP_PICTURES"):
                Image.fromarray((picture * 255).astype(np.uint8)).save("seen.png")
            raise AssertionError("not seen in time")
        time.sleep(0.5)
    return picture


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_colour_shape_and_cameras(
    folder: Path, made: Experiment, tmp_path: Path
) -> None:
    front = paint(
        torch.tensor([[0.0, 0.2, 0.75]]),
        reopen_run(folder, "cpu").representation.parts["tint"][0].detach(),
    )[0]
    viewer = Viewer(folder, made, 18785)
    viewer.server.initial_camera.position = (
        0.0,
        3.0,
        11.0,
    )  # from where the cameras can be seen too
    try:
        with browser(tmp_path / "profile", viewer.address) as page:
            picture = wait_for(page, lambda p: near(p, front) > 30)
            rows, columns = np.nonzero((np.abs(picture - front.numpy()) < 0.04).all(-1))
            assert (
                abs(rows.mean() / len(picture) - 0.5) < 0.05 and abs(columns.mean() - 400) < 20
            ), "in the middle of the page"
            viewer.shading.value = "normals"
            wait_for(page, lambda p: near(p, (0.5, 0.63, 0.98)) > 30)
            viewer.shading.value = "textureless"
            grey = lambda p: int(
                ((p.max(-1) - p.min(-1) < 0.03) & (p.mean(-1) > 0.2) & (p.mean(-1) < 0.9)).sum()
            )  # noqa: E731
            wait_for(page, lambda p: near(p, front) < 5 and grey(p) > 1000)
            dark = lambda p: int((p[:, 320:455].max(-1) < 0.3).sum())  # noqa: E731 (away from the words of the page)
            wait_for(page, lambda p: grey(p) > 1000 and dark(p) < 20)
            viewer.cameras.value = True
            wait_for(page, lambda p: dark(p) > 60)
    finally:
        viewer.server.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_splats(made: Experiment, tmp_path: Path) -> None:
    pytest.importorskip("limbeck.graphics.geometry.gaussian_ply")
    e = Experiment(("red disc",), model="gaussians", representation=Ball(kind="splats"))
    save_snapshot(tmp_path, e, Painted((8, 8), 1, "splats"), 1)
    viewer = Viewer(tmp_path, e, 18795)
    try:
        with browser(tmp_path / "profile", viewer.address) as page:
            wait_for(page, lambda p: near(p, paint(torch.tensor([[0.0, 0.2, 0.75]]))[0], 0.1) > 300)
    finally:
        viewer.server.stop()


@pytest.mark.slow
def test_a_run_with_view_serves_a_page_while_it_runs(tmp_path: Path) -> None:
    """The viewer is a process of its own, which says where it is and ends with the run."""
    where = str(Path(limbeck.__file__).parents[1])
    kind = f"{Path(__file__).parents[1] / 'helpers' / 'painted_ball.py'}:Ball"
    argv = [
        "run",
        "red disc",
        "--model",
        "gaussians",
        "--representation",
        kind,
        "--steps",
        "100000",
        "--every",
        "20",
        "--view",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "limbeck", *argv, "--out", "r"], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": where, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
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
