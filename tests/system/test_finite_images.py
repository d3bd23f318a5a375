"""NaN and infinite values in images: no door turns them into bytes or scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from run_folders import experiment

from limbeck.diffusion.sampling import Sampling
from limbeck.diffusion.tensors import to_unit_range
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.graphics.export.png import NonFiniteImageError, encode_png, to_uint8
from limbeck.methods.vsd import VSD
from limbeck.metrics.run_scores import score_images
from limbeck.priors.exact import colored_shapes
from limbeck.runs.images import image_grid, save_final_images
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.sample_recorder import sample_to_folder
from limbeck.runs.snapshots_2d import ImageSnapshots
from limbeck.system.finite import NonFiniteError
from limbeck.world.denoiser import save_grid

REMEDY = "--precision float32 or bfloat16, or another autoencoder with --model.vae"


def test_clamping_keeps_overflows_visible():
    values = torch.tensor([-1.0, -0.0, 0.25, 1.0, 7.0, 3e38], requires_grad=True)
    out = to_unit_range(values)
    assert out.tolist() == [0.0, 0.0, 0.25, 1.0, 1.0, 1.0]
    out.sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert to_unit_range(torch.tensor([np.inf, -np.inf, np.nan])).isnan().all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "door",
    [
        to_uint8,
        lambda images: encode_png(images[1]),
        lambda images: image_grid(images, 2),
        lambda images: score_images(images, ["a", "b", "c"]),
        lambda images: save_final_images(Path("never"), images, 1),
        lambda images: save_grid(images, Path("never.png")),
    ],
    ids=["bytes", "png", "grid", "scores", "finals", "preview"],
)
def test_an_image_that_is_not_finite_has_no_bytes_and_no_score(door, bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = torch.full((3, 3, 16, 16), 0.5)
    images[1, 2, 3, 4] = bad
    with pytest.raises(NonFiniteImageError, match=REMEDY):
        door(images)
    assert not list(tmp_path.rglob("*.png"))


def test_the_message_counts_images():
    images = torch.full((3, 3, 4, 4), 0.5)
    images[1:] = np.nan
    with pytest.raises(NonFiniteImageError, match="2 of 3 images hold NaN or infinite values"):
        to_uint8(images)


class OverflowingDecoder:
    """A prior whose autoencoder overflows, as in float16, from the given call on."""

    def __init__(self, prior, first_bad_call=0):
        self._prior, self._left = prior, first_bad_call

    def __getattr__(self, name):
        return getattr(self._prior, name)

    def __call__(self, *args):
        return self._prior(*args)

    def decode(self, x0):
        self._left -= 1
        image = self._prior.decode(x0)
        return image if self._left >= 0 else image * torch.inf


def test_samples_that_cannot_be_decoded_stop_and_leave_nothing(tmp_path):
    prior = OverflowingDecoder(colored_shapes(size=8))
    with pytest.raises(NonFiniteImageError, match=REMEDY):
        sample_to_folder(Sampling(("red disc",), steps=2), prior, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_samples_of_a_network_that_is_not_finite_stop_and_leave_nothing(tmp_path, monkeypatch):
    prior = colored_shapes(size=8)
    call = type(prior).__call__

    def with_nan(self, *args):
        return [prediction.lerp(prediction, torch.nan) for prediction in call(self, *args)]

    monkeypatch.setattr(type(prior), "__call__", with_nan)
    with pytest.raises(NonFiniteError, match=r"^a sampled x0 is not finite: .*--precision float32"):
        sample_to_folder(Sampling(("red disc",), steps=2), prior, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_whose_particles_cannot_be_decoded_stops_at_its_first_images(tmp_path):
    prior = OverflowingDecoder(colored_shapes(size=8))
    with pytest.raises(ValueError, match=f"the particles cannot be shown: .*{REMEDY}"):
        record(experiment(steps=40), prior, tmp_path / "run", console=Console(quiet=True))
    folder = tmp_path / "run"
    assert not list(folder.rglob("*.png")) and not (folder / "scores.json").exists()


def test_previews_that_cannot_be_decoded_are_left_out_and_reported_once(tmp_path, monkeypatch):
    monkeypatch.setattr(
        ImageSnapshots, "_decode", lambda self, x0: self.prior.decode(x0) * torch.nan
    )
    method = VSD(5.0, critic=ExactCritic())
    with open(tmp_path / "console.txt", "w+", encoding="utf-8") as file:
        record(
            experiment(method=method, steps=6),
            colored_shapes(size=8),
            tmp_path / "run",
            RecordingOptions(image_every=2),
            console=Console(file=file, width=500),
        )
        file.seek(0)
        output = file.read()
    names = {path.name for path in (tmp_path / "run" / "images").glob("*.png")}
    assert {f"step-{step:05d}.png" for step in (0, 2, 4, 6)} <= names
    assert not any("x0" in name or "critic" in name for name in names)
    assert output.count("the images of x0 are left out") == 1
    assert output.count("the images of critic are left out") == 1
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["mean"]


def test_errors_of_steps_name_the_remedy():
    for cause, remedy in [
        ("the render or its encoding", "or another --model.vae; else a lower --lr"),
        ("the direction the method returned", "else a lower guidance scale or --lr"),
        ("the gradient of the parameters", "use --precision float32 or bfloat16"),
    ]:
        assert remedy in str(NonFiniteError(3, cause, {}))
        assert str(NonFiniteError(3, cause, {})).startswith(f"step 3: {cause} is not finite: ")


def test_errors_at_an_end_of_a_flow_name_it():
    cause = "the direction the method returned"
    for t, remedy in ((0.0, "--timesteps.t-min 0.02; if the"), (1.0, "--timesteps.t-max 0.98; if")):
        assert remedy in str(NonFiniteError(3, cause, {"t": torch.tensor([0.5, t])}))
    assert "--timesteps" not in str(NonFiniteError(3, cause, {"t": torch.tensor([0.5])}))
