"""A recorded run with a reference: its files, its page, resuming, and a changed image."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from run_folders import assert_same_run, experiment, record_run

from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.runs.own_files import changed_own_files
from limbeck.runs.recorder import Recorder
from limbeck.system.image_files import read_whole_image
from limbeck.training.reference import ImageReference


def write_disc(path, color=(200, 30, 20)):
    y, x = np.mgrid[:64, :64] - 31.5
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[np.hypot(x, y) < 16] = (*color, 255)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    write_disc(folder / "disc.png")
    e = experiment(
        prompts=("a red disc",),
        particles=1,
        steps=4,
        representation=GaussianSplats(num_gaussians=60, size=(12, 12)),
        reference=ImageReference(folder / "disc.png"),
    )
    record_run(e, folder / "run")
    return e, folder


def test_the_image_and_the_render_from_its_camera_are_saved(recorded):
    _, folder = recorded
    image = read_whole_image(folder / "run" / "reference" / "image.png")
    assert image.shape == (3, 256, 256) and image[:, 0, 0].tolist() == [1, 1, 1]
    center = image[:, 128, 128]
    assert torch.allclose(center, torch.tensor([200, 30, 20]) / 255, atol=0.01)
    scores = json.loads((folder / "run" / "reference" / "scores.json").read_text())
    assert set(scores) == {"00-00"} and 0 <= scores["00-00"]["iou"] <= 1
    assert (folder / "run" / "reference" / "00-00.png").is_file()


def test_the_page_shows_the_reference(recorded):
    _, folder = recorded
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Reference</h2>" in page and "PSNR" in page and "silhouette" in page


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_identically(recorded, tmp_path, monkeypatch):
    e, folder = recorded
    step = Recorder._step

    def failing(self, progress):
        step(self, progress)
        if self.run.step == 2:
            raise RuntimeError("crash")

    monkeypatch.setattr(Recorder, "_step", failing)
    with pytest.raises(RuntimeError, match="crash"):
        record_run(e, tmp_path / "run", checkpoint_every=1)
    monkeypatch.undo()
    record_run(e, tmp_path / "run")
    assert_same_run(folder / "run", tmp_path / "run")


def test_a_changed_image_is_noticed(recorded, tmp_path):
    e, folder = recorded
    assert changed_own_files(folder / "run", e) == []
    shutil.copy(folder / "disc.png", tmp_path / "kept.png")
    write_disc(folder / "disc.png", color=(10, 200, 30))
    try:
        assert changed_own_files(folder / "run", e) == [str(folder / "disc.png")]
    finally:
        shutil.copy(tmp_path / "kept.png", folder / "disc.png")
