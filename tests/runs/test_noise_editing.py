"""Edits by inversion, `limbeck edit --method irfds`: the image's noise, and samples from it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from limbeck.cli import main as cli
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.sampling import sample_x0
from limbeck.evaluation.edit_sets import is_edit
from limbeck.methods.irfds import IRFDS
from limbeck.priors.exact import colored_shapes
from limbeck.priors.loading import load
from limbeck.representations.noise import NoiseMap
from limbeck.runs import editing
from limbeck.runs.edit_inputs import EditInputs
from limbeck.runs.edit_options import EditOptions, default_options
from limbeck.system.image_files import read_image
from limbeck.training.optimizers import Adam
from limbeck.training.particle_images import particle_images
from limbeck.training.trainer import Run

RED, BLUE = "red disc", "blue disc"


def save(image: torch.Tensor, path: Path) -> Path:
    array = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def shapes():
    return load("gaussians-flow", "cpu")


@pytest.fixture
def red(shapes, tmp_path):
    """A red disc that is no mean of the mixture: its center is darker."""
    x0 = shapes.means[:1] + 0.1 * torch.linspace(-1, 1, shapes.shape[-1]).double()
    return save(shapes.decode(x0)[0], tmp_path / "red.png")


def options_of(**changes) -> EditOptions:
    options = default_options(IRFDS, "gaussians-flow")
    method = changes.pop("method", IRFDS(sampling_steps=6))
    return replace(options, method=method, model="gaussians-flow", **changes)


def inputs_of(red: Path, **changes) -> EditInputs:
    return EditInputs((red,), **{"target_prompt": (BLUE,), "source_prompt": (RED,)} | changes)


def edit(inputs, options, prior, folder) -> Path:
    editing.edit_to_folder(inputs, options, prior, folder, console=Console(file=io.StringIO()))
    return folder


def test_the_defaults_of_small_models_are_those_of_the_leaderboard():
    options = default_options(IRFDS)
    assert (options.steps, options.lr, options.optimizer) == (100, 0.03, Adam())
    assert (options.method.sampling_steps, options.method.sampling_guidance) == (30, 4.0)
    assert (options.timesteps.t_min, options.timesteps.t_max) == (0.2, 0.9)


def test_the_command_inverts_the_image_and_samples_the_target(shapes, red, tmp_path, capsys):
    """The result is the target, and as far from its mean as the source was from its own."""
    out = tmp_path / "out"
    command = ["edit", str(red), "--source-prompt", RED, "--target-prompt", BLUE]
    command += ["--method", "irfds", "--model", "gaussians-flow", "--device", "cpu"]
    command += ["--steps", "200", "--lr", ".1", "--method.sampling-guidance", "1"]
    assert cli.main([*command, "--out", str(out)]) == 0
    folder = out / "edit"
    kinds = {f"00-00-{kind}.png" for kind in ("before", "after", "difference", "gradient")}
    assert {path.name for path in folder.iterdir()} == kinds
    size = shapes.image_size
    before, after = (read_image(folder / f"00-00-{k}.png", size) for k in ("before", "after"))
    of_red, of_blue = (
        shapes.decode(shapes.means[shapes.labels.index(label)][None])[0].float()
        for label in (RED, BLUE)
    )
    assert float((after - of_blue).square().mean().sqrt()) < 0.08
    assert float((after - of_red).square().mean().sqrt()) > 0.15
    detail = [(a - b).flatten() for a, b in ((before, of_red), (after, of_blue))]
    assert float(torch.nn.functional.cosine_similarity(*detail, dim=0)) > 0.5
    assert "red disc → blue disc" in (out / "report.html").read_text()
    # only the first and the last step have images, since each takes a whole sampling
    images = {path.name for path in (out / "images").glob("step-?????.png")}
    assert images == {"step-00000.png", "step-00200.png"}


def test_the_result_is_sampled_from_the_noise_with_the_target_prompt(shapes, red, tmp_path):
    options = options_of(steps=3)
    out = edit(inputs_of(red), options, shapes, tmp_path / "out")
    (e,) = editing.edit_experiments(inputs_of(red), options, shapes).values()
    assert isinstance(e.representation, NoiseMap) and is_edit(e)
    run = Run(e, shapes)
    for _ in range(3):
        run.advance()
    noise = run.representation.render(run.eval_request(1)).image.detach()
    conditions = Conditions(shapes.condition([BLUE]), shapes.condition([""]))
    expected = shapes.decode(sample_x0(shapes, conditions, noise, 6, 4.0))
    assert torch.equal(particle_images(run, run.eval_request(1)), expected)
    with Image.open(out / "edit" / "00-00-after.png") as image:
        found = torch.from_numpy(np.asarray(image.convert("RGB")) / 255).permute(2, 0, 1)
    assert float((found - expected[0]).abs().max()) < 0.5 / 255 + 1e-6


def test_an_edit_of_the_noise_resumes_bit_for_bit(shapes, red):
    (e,) = editing.edit_experiments(inputs_of(red), options_of(steps=4), shapes).values()
    whole, first, second = (Run(e, shapes) for _ in range(3))
    for _ in range(4):
        whole.advance()
    for _ in range(2):
        first.advance()
    second.load(first.tensors(), 2)
    for _ in range(2):
        second.advance()
    images = [particle_images(run, run.eval_request(1)) for run in (whole, second, first)]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_a_finished_folder_is_left_as_it_is(shapes, red, tmp_path):
    out = edit(inputs_of(red), options_of(steps=2), shapes, tmp_path / "out")
    after = (out / "edit" / "00-00-after.png").read_bytes()
    edit(inputs_of(red), options_of(steps=2), shapes, out)
    assert (out / "edit" / "00-00-after.png").read_bytes() == after


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 1), (4.0, 2)])
def test_an_image_takes_the_passes_of_its_sampling(shapes, red, guidance, rows):
    method = IRFDS(sampling_steps=6, sampling_guidance=guidance)
    options = options_of(method=method, steps=2)
    (e,) = editing.edit_experiments(inputs_of(red), options, shapes).values()
    run, counter = Run(e, shapes), shapes.call_counter
    before = counter.calls, counter.rows
    run.advance()
    assert (counter.calls - before[0], counter.rows - before[1]) == (1, 1)
    before = counter.calls, counter.rows
    particle_images(run, run.eval_request(1))
    assert (counter.calls - before[0], counter.rows - before[1]) == (6, 6 * rows)


def test_a_mask_is_refused_in_one_line(red, tmp_path, capsys):
    mask = save(torch.ones(3, *colored_shapes().image_size), tmp_path / "mask.png")
    command = ["edit", str(red), "--source-prompt", RED, "--target-prompt", BLUE]
    command += ["--method", "irfds", "--model", "gaussians-flow", "--mask", str(mask)]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--mask: the method irfds samples whole images" in line and "flow-edit" in line
    assert not (tmp_path / "out").exists()


def test_the_source_prompt_is_needed(red, tmp_path, capsys):
    command = ["edit", str(red), "--target-prompt", BLUE, "--method", "irfds"]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "--source-prompt is missing" in capsys.readouterr().err
