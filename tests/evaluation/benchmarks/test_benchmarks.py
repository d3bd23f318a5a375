"""Folders for benchmarks, read again as the scripts of each benchmark read them.

The painted ball is red towards threestudio's +x, green towards its +y and blue towards its +z.
"""

import glob
import json
import math
import os
from functools import partial

import numpy as np
import pytest
import torch
import trimesh
from painted_ball import RADIUS, Ball
from PIL import Image

from limbeck.cli.main import main
from limbeck.config import yaml as config
from limbeck.evaluation.benchmarks import threestudio
from limbeck.priors.exact import colored_shapes
from limbeck.representations.latents import Latents
from limbeck.system.checkpoint import write_checkpoint
from limbeck.training.experiment import Experiment

PROMPTS = ("a bagel's half", "a red mug, on a table")
STEP = 7


def write_run(folder, representation=None):
    """A run folder that has not run."""
    representation = representation or Ball()
    e = Experiment(PROMPTS, model="gaussians", representation=representation, particles=2)
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(config.to_yaml(e), encoding="utf-8")
    particles = representation.build(colored_shapes(size=24), e.total, e.seed)
    tensors = {f"representation.{name}": value for name, value in particles.state_dict().items()}
    write_checkpoint(folder / "checkpoint.safetensors", tensors, {"step": STEP})
    return folder


@pytest.fixture
def small(monkeypatch):
    """Few and small views; the cameras of the few are among those of all."""
    monkeypatch.setattr(threestudio, "SIZE", 48)
    monkeypatch.setattr(threestudio, "VIEWS", 9)


def painted(points):
    """Color of points on the ball, in threestudio's axes and our units."""
    return 0.5 + 0.45 / RADIUS * points


def projected(vertices, camera):
    """Pixels where a camera of threestudio sees vertices, x and y from the upper left corner."""
    to_camera = np.linalg.inv(camera["c2w"][0].numpy())
    points = np.c_[vertices, np.ones(len(vertices))]
    clip = points @ (camera["proj_mtx"][0].numpy() @ to_camera).T
    return (clip[:, :2] / clip[:, 3:] + 1) / 2 * threestudio.SIZE


def seen_scale():
    """Our units per unit of threestudio: Orbit's eval camera sees as much at the origin."""
    camera = Ball().cameras.eval_cameras(1)
    seen = float(camera.distance[0]) * math.tan(float(camera.fov[0]) / 2)
    return seen / (1.5 * math.tan(math.radians(35)))


def read_gpteval3d(folder, prompt_index, views):
    """The files that GPTEval3D's ``get_image_for_promptid`` opens, at their true number."""
    for entry in os.listdir(folder):
        assert entry.startswith(".") or int(entry) in range(110)
    rgb = glob.glob(str(folder / str(prompt_index) / "0" / "rgb_*.png"))
    normals = glob.glob(str(folder / str(prompt_index) / "0" / "normal_*.png"))
    assert len(rgb) == len(normals) == views
    seed = folder / str(prompt_index) / "0"
    kinds = ("rgb", "normal")
    return [
        [np.asarray(Image.open(seed / f"{kind}_{i}.png")) for i in range(views)] for kind in kinds
    ]


def test_gpteval3d_finds_its_images_and_normals(tmp_path, small, capsys):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps(["another", PROMPTS[1], "a third", PROMPTS[0]]))
    run, out = write_run(tmp_path / "run"), tmp_path / "methods"
    argv = ["export", str(run), "--benchmark", "gpteval3d", "--out", str(out)]
    assert main([*argv, "--benchmark.prompts", str(prompts), "--benchmark.method", "ours"]) == 0
    assert capsys.readouterr().out.split() == [str(out / "ours" / "3"), str(out / "ours" / "1")]
    rgb, normals = read_gpteval3d(out / "ours", 3, 9)
    assert {image.shape for image in (*rgb, *normals)} == {(48, 48, 3)}  # no alpha channel
    grid = np.concatenate([np.concatenate(row, 1) for row in (rgb[:3], normals[:3])], 0)
    assert grid.shape == (96, 144, 3)
    for i, azimuth in enumerate(np.radians(np.linspace(0, 360, 9))):
        horizontal = math.cos(math.radians(15))
        towards = np.array(
            [
                horizontal * math.cos(azimuth),
                horizontal * math.sin(azimuth),
                math.sin(math.radians(15)),
            ]
        )
        center = slice(23, 25)
        seen = rgb[i][center, center].mean((0, 1)) / 255
        assert seen == pytest.approx(painted(RADIUS * towards), abs=0.02)
        normal = normals[i][center, center].mean((0, 1)) / 255
        assert normal == pytest.approx((towards + 1) / 2, abs=0.02)
        assert normals[i][0, 0].tolist() == [0, 0, 0] and rgb[i][0, 0].tolist() == [255] * 3
    assert np.array_equal(rgb[0], rgb[8])  # both ends of the circle
    # the silhouette of a ball, seen from 1.5 units of threestudio with a field of view of 70
    sine = RADIUS / seen_scale() / 1.5
    radius = 24 * math.tan(math.asin(sine)) / math.tan(math.radians(35))
    covered = (normals[0].max(2) > 100).sum()
    assert covered == pytest.approx(math.pi * radius**2, rel=0.1)
    assert main([*argv, "--benchmark.prompts", str(prompts), "--benchmark.method", "ours"]) == 2
    assert "is not overwritten" in capsys.readouterr().err


@pytest.mark.slow
def test_gpteval3d_has_120_views_of_512_pixels(tmp_path):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps(list(PROMPTS)))
    run, out = write_run(tmp_path / "run"), tmp_path / "methods"
    argv = ["export", str(run), "--benchmark", "gpteval3d", "--out", str(out)]
    assert main([*argv, "--benchmark.prompts", str(prompts)]) == 0
    for index in (0, 1):
        rgb, normals = read_gpteval3d(out / "limbeck", index, 120)
        assert {image.shape for image in (*rgb, *normals)} == {(512, 512, 3)}
        assert np.array_equal(rgb[0], rgb[119]) and not np.array_equal(rgb[0], rgb[60])


def test_cameras_are_those_of_the_test_split_of_threestudio():
    azimuths = threestudio.view_azimuths()
    assert len(azimuths) == 120 and azimuths[[0, -1]].tolist() == [0.0, 360.0]
    assert azimuths[1].item() == pytest.approx(360 / 119)
    assert threestudio.SIZE == 512
    cameras = threestudio.view_cameras(2.0)
    for i in (0, 30, 77):
        batch = threestudio.camera_batch(cameras.pose[i], azimuths[i].item(), 2.0)
        azimuth, elevation = math.radians(azimuths[i].item()), math.radians(15)
        position = 1.5 * torch.tensor(
            [
                math.cos(elevation) * math.cos(azimuth),
                math.cos(elevation) * math.sin(azimuth),
                math.sin(elevation),
            ]
        )
        assert torch.allclose(batch["camera_positions"][0], position, atol=1e-5)
        c2w = batch["c2w"][0]
        assert torch.allclose(c2w[:3, :3].T @ c2w[:3, :3], torch.eye(3), atol=1e-5)
        assert torch.linalg.det(c2w[:3, :3]).item() == pytest.approx(1)
        assert c2w[2, 0].abs() < 1e-5 and c2w[2, 1] > 0  # level, z up
        top = torch.tensor([0.0, 0.0, 0.3, 1.0])  # above the origin
        clip = batch["proj_mtx"][0] @ torch.linalg.inv(c2w) @ top
        x, y = (clip[:2] / clip[3]).tolist()
        depth = 1.5 - 0.3 * math.sin(elevation)
        down = -0.3 * math.cos(elevation) / depth / math.tan(math.radians(35))
        assert x == pytest.approx(0, abs=1e-5) and y == pytest.approx(down, abs=1e-5)


def test_eval3d_reads_normals_cameras_and_mesh(tmp_path, small):
    run, out = write_run(tmp_path / "run"), tmp_path / "outputs"
    argv = ["export", str(run), "--benchmark", "eval3d", "--out", str(out), "--texture-size", "64"]
    assert main(argv) == 0
    names = sorted(os.listdir(out / "limbeck"))
    assert [name.split("@")[0] for name in names] == ["a_bagel's_half", "a_red_mug,_on_a_table"]
    (first,) = sorted(glob.glob(str(out / "limbeck" / names[0] / "save/*/batch_data")))
    test = os.path.dirname(first)
    assert os.path.basename(test) == f"it{STEP}-test"
    normals, cameras, opacities, images = (
        sorted(glob.glob(os.path.join(test, pattern)))
        for pattern in (
            "normal_world/*.npy",
            "batch_data/*.npy",
            "opacity/*.png",
            "rgb_images/*.png",
        )
    )
    assert len(normals) == len(cameras) == len(opacities) == len(images) == 9
    for i in range(9):
        batch = np.load(cameras[i], allow_pickle=True).item()
        opacity = np.array(Image.open(opacities[i]))[..., 0] / 255.0
        image = np.asarray(Image.open(images[i])) / 255
        c2w = batch["c2w"].cpu().numpy()[:, :3, :3]
        normal = np.load(normals[i]) * 2 - 1
        assert normal.shape == (48, 48, 3) and normal.dtype == np.float32
        inside = opacity > 0.99
        assert np.linalg.norm(normal[inside], axis=1) == pytest.approx(1, abs=1e-5)
        in_camera = normal @ np.linalg.inv(c2w[0]).T
        assert in_camera[inside][:, 2].min() > 0  # every seen surface faces the camera
        assert in_camera[23:25, 23:25].mean((0, 1)) == pytest.approx([0, 0, 1], abs=0.02)
        assert image[inside] == pytest.approx(painted(RADIUS * normal[inside]), abs=0.04)
        position = batch["camera_positions"].cpu().numpy()[0]
        assert np.linalg.norm(position) == pytest.approx(batch["camera_distances"].item())
        assert {"proj_mtx", "elevation", "azimuth"} < batch.keys()
    mesh = glob.glob(str(out / "limbeck" / names[0] / f"save/it{STEP}-export/model.obj"))
    assert len(mesh) == 1 and os.path.exists(mesh[0].replace(".obj", ".mtl"))
    vertices = trimesh.load(mesh[0], force="mesh", process=False).vertices
    for i in range(9):  # the semantic metric takes features of the images at these pixels
        pixels = projected(vertices, np.load(cameras[i], allow_pickle=True).item())
        rows, columns = np.nonzero(np.array(Image.open(opacities[i]))[..., 0] > 127)
        for found, covered in ((pixels[:, 0], columns), (pixels[:, 1], rows)):
            ends = found.min(), found.max()
            assert ends == pytest.approx((covered.min(), covered.max() + 1), abs=0.8)


@pytest.mark.parametrize("group", ["single", "multi"])
def test_t3bench_finds_a_textured_mesh_with_z_up(tmp_path, group):
    run, out = write_run(tmp_path / "run"), tmp_path / "T3Bench"
    argv = ["export", str(run), "--benchmark", "t3bench", "--benchmark.group", group]
    argv += ["--benchmark.method", "magic3d", "--out", str(out), "--texture-size", "256"]
    assert main(argv) == 0
    for prompt in PROMPTS:
        pattern = f"{prompt.strip().replace(' ', '_')}*/save/it*-export/model.obj"
        found = glob.glob(str(out / "outputs_mesh_t3" / f"magic3d_{group}" / pattern))
        mesh = trimesh.load(found[-1], force="mesh", process=False)
        size = np.abs(mesh.vertices).max(0)
        assert size == pytest.approx([RADIUS / seen_scale()] * 3, abs=0.02)
        assert np.einsum("ij,ij->i", mesh.vertices, mesh.vertex_normals).min() > 0  # not inside out
        colors = mesh.visual.material.image.convert("RGB")
        uv = mesh.visual.uv
        texels = np.asarray(colors)[
            ((1 - uv[:, 1]) * 255).round().astype(int), (uv[:, 0] * 255).round().astype(int)
        ]
        points = mesh.vertices * seen_scale()
        assert np.abs(texels / 255 - painted(points)).mean() < 0.01


def test_t3bench_gets_the_surface_of_splats(tmp_path, monkeypatch):
    coarse = partial(threestudio.splats_to_surface, resolution=24)
    monkeypatch.setattr(threestudio, "splats_to_surface", coarse)
    run, out = write_run(tmp_path / "run", Ball(kind="splats")), tmp_path / "T3Bench"
    argv = ["export", str(run), "--benchmark", "t3bench", "--out", str(out), "--quality", "draft"]
    assert main([*argv, "--texture-size", "64"]) == 0
    found = sorted(out.glob("outputs_mesh_t3/*/*/save/it*-export/model.obj"))
    assert len(found) == len(PROMPTS)
    mesh = trimesh.load(found[0], force="mesh", process=False)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    # wide splats: their outline
    assert np.median(radius) == pytest.approx(RADIUS / seen_scale(), abs=0.09)


def test_what_a_benchmark_cannot_take_is_refused_before_the_run_is_loaded(tmp_path, capsys):
    run, out = write_run(tmp_path / "run"), tmp_path / "out"

    def refusal(*words):
        assert main(["export", str(run), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    (run / "checkpoint.safetensors").unlink()
    to = ("--benchmark", "gpteval3d", "--out", str(out))
    assert "--benchmark needs --out" in refusal("--benchmark", "t3bench")
    assert "give its data/tournament-v0/prompts.json" in refusal(*to)
    prompts = tmp_path / "prompts.json"
    prompts.write_text('["a bagel", "a house"]')
    message = refusal(*to, "--benchmark.prompts", str(prompts))
    assert "has no prompt \"a bagel's half\"; did you run 'a bagel'?" in message
    assert "must be of letters" in refusal(*to[:2], "--benchmark.method", "a b", *to[2:])
    assert "a benchmark has one result per prompt" in refusal(*to, "--particle", "all")
    t3 = ("--benchmark", "t3bench", "--out", str(out))
    assert "particles 0 to 1 of each prompt" in refusal(*t3, "--particle", "2")
    assert "another of the runs has the prompt" in refusal(str(run), *t3)
    write_run(tmp_path / "flat", Latents())
    assert main(["export", str(tmp_path / "flat"), *t3]) == 2
    assert "2D" in capsys.readouterr().err
    assert not out.exists()


def test_a_failed_export_leaves_no_folder(tmp_path, small, monkeypatch, capsys):
    run, out = write_run(tmp_path / "run"), tmp_path / "out"

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("limbeck.evaluation.benchmarks.eval3d.encode_png", fail)
    argv = ["export", str(run), "--benchmark", "eval3d", "--out", str(out)]
    assert main([*argv, "--texture-size", "16"]) != 0
    assert "disk full" in capsys.readouterr().err
    assert not list((out / "limbeck").iterdir())
