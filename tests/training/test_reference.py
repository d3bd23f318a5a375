"""References: cut out, framed and compared; analytic losses; what is refused."""

import math
import re
from dataclasses import replace
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
import torch
from ball_representation import Ball
from PIL import Image
from tiny_pipeline import max_difference

from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.graphics.cameras.samplers import Around, NoCamera, Orbit
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import Render
from limbeck.representations.dmtet import DMTet
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.system.notices import collect_notices, display_notices
from limbeck.training.experiment import Experiment
from limbeck.training.reference import ImageReference
from limbeck.training.reference_images import ObjectImages, read_reference_images
from limbeck.training.reference_losses import (
    color_loss,
    correlation_loss,
    mask_loss,
    normal_loss,
    scale_shift_loss,
)
from limbeck.training.reference_view import ReferenceView
from limbeck.training.trainer import Run

RED = (200, 30, 20)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def square(size=(40, 60), rows=(10, 30), columns=(5, 15), background=(255, 255, 255)) -> np.ndarray:
    """A red rectangle on a plain background."""
    pixels = np.full((*size, 3), background)
    pixels[rows[0] : rows[1], columns[0] : columns[1]] = RED
    return pixels


def with_alpha(pixels: np.ndarray, opaque: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels, 255 * opaque[..., None]], 2)


@pytest.fixture
def cut_out(tmp_path):
    """A square of half the width of the image, cut out of green."""
    pixels = square((64, 64), (16, 48), (16, 48), (0, 255, 0))
    return save(tmp_path / "x.png", with_alpha(pixels, (pixels == RED).all(2)))


# files


def test_an_object_on_white_is_that_of_its_cut_out(tmp_path, cut_out):
    white = save(tmp_path / "white.png", square((64, 64), (16, 48), (16, 48)))
    for size in (0.0, 0.5):
        a = read_reference_images(white, None, None, size)
        b = read_reference_images(cut_out, None, None, size)
        assert torch.equal(a.mask, b.mask) and torch.equal(a.color, b.color)


def test_white_inside_an_object_is_part_of_it(tmp_path):
    pixels = square((64, 64), (16, 48), (16, 48))
    pixels[24:40, 24:40] = 255
    found = read_reference_images(save(tmp_path / "x.png", pixels), None, None, 0)
    assert max_difference(found.at(64, 64).mask[0, 20:44, 20:44], torch.ones(24, 24)) < 1e-6


def test_white_is_background_where_a_path_of_white_leads_to_the_border(tmp_path):
    """Against a search pixel by pixel, among random obstacles that leave winding paths."""
    red = np.random.default_rng(0).random((48, 48)) < 0.38
    red[20:28, 20:28], red[22:26, 22:26] = True, False
    red[[0, -1]] = red[:, [0, -1]] = False
    pixels = np.where(red[..., None], RED, 255)
    reached, todo = np.zeros_like(red), [(0, i) for i in range(48)]
    todo += [(47, i) for i in range(48)] + [(i, j) for i in range(48) for j in (0, 47)]
    while todo:
        row, column = todo.pop()
        inside = 0 <= row < 48 and 0 <= column < 48
        if inside and not red[row, column] and not reached[row, column]:
            reached[row, column] = True
            todo += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    found = read_reference_images(save(tmp_path / "x.png", pixels), None, None, 0)
    # a frame of 512 pixels: brought back to 48, each pixel is a mean over its surroundings
    assert not reached[23, 23] and (~red & ~reached).sum() > 20
    expected = torch.from_numpy(~reached).float()[None, None]
    expected = torch.nn.functional.interpolate(
        expected, (512, 512), mode="bilinear", antialias=True
    )[0]
    assert max_difference(found.mask, expected) < 1e-6


def test_the_object_is_centered_and_scaled(tmp_path):
    found = read_reference_images(save(tmp_path / "x.png", square()), None, None, 0.5).at(80, 80)
    rows, columns = found.mask[0].sum(1), found.mask[0].sum(0)
    assert found.mask[0].sum() == pytest.approx(40 * 20, rel=1e-3)  # 20 x 10 of a frame of 40
    assert (rows > 10).nonzero().flatten().tolist() == list(range(20, 60))
    assert (columns > 20).nonzero().flatten().tolist() == list(range(30, 50))
    inside = found.color[:, 30:50, 35:45]
    assert max_difference(inside, torch.tensor(RED).view(3, 1, 1) / 255 + 0 * inside) < 1e-6


def test_the_framing_of_a_file_is_kept_and_padded_to_a_square(tmp_path):
    found = read_reference_images(save(tmp_path / "x.png", square()), None, None, 0).at(60, 60)
    rows, columns = found.mask[0].sum(1), found.mask[0].sum(0)
    assert (rows > 5).nonzero().flatten().tolist() == list(range(20, 40))
    assert (columns > 10).nonzero().flatten().tolist() == list(range(5, 15))


def test_wide_images_have_the_frame_in_their_middle():
    images = ObjectImages(torch.ones(3, 8, 8), torch.ones(1, 8, 8))
    wide, narrow = images.at(8, 12), images.at(8, 6)
    assert wide.mask[0, 0].tolist() == [0, 0, *[1] * 8, 0, 0] and narrow.mask.shape == (1, 8, 6)
    assert torch.equal(wide.on_white, torch.ones(3, 8, 12))


def test_colors_of_transparent_pixels_do_not_leak(cut_out):
    found = read_reference_images(cut_out, None, None, 0).at(9, 9)
    red = torch.tensor(RED).view(3, 1, 1) / 255
    assert max_difference(found.color, red * found.mask) < 1e-6


def test_colors_of_transparent_pixels_do_not_leak_where_a_large_file_is_scaled_down(tmp_path):
    rows, columns = np.mgrid[:2048, :2048] - 1023.5
    inside = rows**2 + columns**2 < 700**2
    pixels = np.where(inside[..., None], (255, 0, 0), (0, 0, 0))
    path = save(tmp_path / "x.png", with_alpha(pixels, inside))
    found = read_reference_images(path, None, None, 0.7)
    assert max_difference(found.color[0], found.mask[0]) < 1e-5 and not found.color[1:].any()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (square(background=(90, 120, 90)), "neither transparent pixels nor a white background"),
        (np.full((9, 9, 3), 255), "shows nothing: all of its pixels are white"),
        (np.zeros((9, 9, 4)), "shows nothing: all of its pixels are transparent"),
    ],
)
def test_images_without_an_object_are_refused(pixels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ImageReference(save(tmp_path / "x.png", pixels)).read_images()


def test_files_that_are_no_images_are_refused(tmp_path):
    (tmp_path / "x.png").write_text("no image", encoding="utf-8")
    with pytest.raises(ValueError, match="is not an image that can be read"):
        ImageReference(tmp_path / "x.png").read_images()
    with pytest.raises(ValueError, match="no image file"):
        ImageReference(tmp_path / "y.png").read_images()


def test_depth_and_normals_are_framed_as_the_image(tmp_path, cut_out):
    ramp = np.tile(np.arange(64)[:, None, None] * 4, (1, 64, 3))
    depth = save(tmp_path / "d.png", ramp)
    upward = save(tmp_path / "n.png", np.tile(np.array([128, 255, 128]), (64, 64, 1)))
    found = read_reference_images(cut_out, depth, upward, 1.0).at(32, 32)
    assert found.depth is not None and found.normal is not None
    expected = (torch.arange(16, 48) * 4 / 255)[:, None].expand(32, 32)
    assert max_difference(found.depth[0, 2:-2], expected[2:-2]) < 1e-3
    up = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1).expand_as(found.normal)
    assert max_difference(found.normal, up) < 0.01
    small = save(tmp_path / "small.png", np.zeros((9, 9, 3)))
    with pytest.raises(ValueError, match="9 x 9 pixels, not 64 x 64"):
        read_reference_images(cut_out, small, None, 0)


# losses


def test_colors_are_compared_in_front_of_the_background_of_the_render():
    """Half of the pixels are the object, off by .3; the others show a background of .2 or .7."""
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 2)
    color = torch.full((3, 1, 2), 0.5) * mask
    background = torch.full((2, 3, 1, 2), 0.2, requires_grad=True)
    image = torch.tensor([[0.8, 0.2], [0.8, 0.7]])[:, None, None].expand(2, 3, 1, 2)
    image = image.clone().requires_grad_()
    loss = color_loss(image, background, color, mask)
    expected = [0.09 / 2, (0.09 + 0.25) / 2]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)
    loss.sum().backward()
    assert background.grad is None or not background.grad.any()
    assert max_difference(image.grad[:, 0, 0, 0], torch.full((2,), 2 * 0.3 / 6)) < 1e-6


def test_the_mask_loss_is_a_mean_square():
    alpha = torch.tensor([[0.0, 1.0], [0.5, 0.5]]).view(2, 1, 1, 2)
    assert mask_loss(alpha, torch.tensor([0.0, 1.0]).view(1, 1, 2)).tolist() == [0.0, 0.25]


def ramps(factor: float, shift: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    target = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    weight[..., 4:] = 0
    return (factor * target + shift)[None].requires_grad_(), target, weight


@pytest.mark.parametrize("loss", [scale_shift_loss, correlation_loss])
def test_depth_of_any_scale_and_shift_costs_nothing(loss):
    value, target, weight = ramps(3.0, -5.0)
    found = loss(value, target, weight)
    found.sum().backward()
    assert abs(found.item()) < 1e-9 and value.grad is not None and value.grad.abs().max() < 1e-6
    with torch.no_grad():
        value[..., 5] = math.inf  # weightless pixels may hold anything
    assert abs(loss(value, target, weight).item()) < 1e-9


def test_the_fit_of_depth_is_that_of_least_squares():
    _, target, weight = ramps(1.0, 0.0)
    value = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1)).double()
    value = value + target  # they run in the same direction
    kept = weight.flatten() > 0
    x, y = target.flatten()[kept], value.flatten()[kept]
    design = torch.stack([x, torch.ones_like(x)], 1)
    residual = y - design @ torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    expected = residual.square().mean()
    assert abs(scale_shift_loss(value, target, weight).item() - expected) < 1e-12
    pearson = torch.corrcoef(torch.stack([x, y]))[0, 1]
    assert abs(correlation_loss(value, target, weight).item() - (1 - pearson)) < 1e-12


def test_depth_inside_out_is_not_fitted():
    value, target, weight = ramps(-2.0, 1.0)
    variance = value.detach().flatten()[weight.flatten() > 0].var(unbiased=False)
    assert abs(scale_shift_loss(value, target, weight).item() - variance) < 1e-9
    assert abs(correlation_loss(value, target, weight).item() - 2) < 1e-9


def test_normals_cost_one_minus_the_cosine():
    angle = math.radians(60)
    normal = torch.tensor([0.0, math.sin(angle), math.cos(angle)]).view(1, 3, 1, 1)
    normal = normal.expand(1, 3, 1, 2)
    target = torch.tensor([[0.0, 0.0], [0.0, 3.0], [7.0, 0.0]]).view(3, 1, 2)
    for weight, expected in (([1.0, 0.0], 0.5), ([0.0, 1.0], 1 - math.sin(angle))):
        found = normal_loss(normal, target, torch.tensor(weight).view(1, 1, 1, 2))
        assert found.item() == pytest.approx(expected, abs=1e-6)
    assert normal_loss(normal, target, torch.zeros(1, 1, 1, 2)).item() == 0


@pytest.mark.parametrize(
    ("world", "seen"), [((1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0))]
)
def test_normals_are_compared_in_the_space_of_the_camera(world, seen):
    """From +x, what faces +x faces the camera (z), and what faces -z faces right (x)."""
    camera = orbit_cameras(torch.tensor([math.pi / 2]), torch.zeros(1), 3.0, 40.0)
    target = torch.tensor(seen).view(3, 1, 1).expand(3, 4, 4)
    images = ObjectImages(torch.zeros(3, 4, 4), torch.ones(1, 4, 4), None, target)
    options = ImageReference(
        Path("x"), color_weight=0, mask_weight=0, normal_weight=1, normal=Path("n")
    )
    view = ReferenceView(options, images, camera)
    normal = torch.tensor(world).view(1, 3, 1, 1).expand(1, 3, 4, 4).clone().requires_grad_()
    render = Render(torch.zeros(1, 3, 4, 4), "image", torch.ones(1, 1, 4, 4), None, normal)
    assert view.losses(render)["reference_normal"].item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="normals of this representation are not optimized"):
        view.losses(replace(render, normal=normal.detach()))


# options


def test_the_camera_takes_what_it_leaves_open_from_the_ranges():
    cameras = Orbit(camera_distance_range=(3.0, 4.0), fovy_range=(30.0, 50.0))
    camera = ImageReference(camera=(90.0, 30.0, 0.0, 0.0)).camera_among(cameras)
    half = math.radians(30)
    expected = 3.5 * torch.tensor([math.cos(half), math.sin(half), 0.0])
    assert max_difference(camera.eye[0], expected) < 1e-6
    assert camera.fov.item() == pytest.approx(math.radians(40))
    camera = ImageReference(camera=(0.0, 0.0, 3.8, 20.0)).camera_among(cameras)
    assert camera.distance.item() == pytest.approx(3.8)
    with pytest.raises(ValueError, match="needs a distance and a field of view"):
        ImageReference().camera_among(NoCamera())


def test_the_camera_does_not_depend_on_the_evaluation_cameras():
    cameras = Orbit(eval_camera=(15.0, 8.0, 20.0))
    camera = ImageReference().camera_among(cameras)
    assert camera.distance.item() == pytest.approx(3.6)
    assert camera.fov.item() == pytest.approx(math.radians(40))


def test_a_relative_distance_is_that_at_the_field_of_view_of_the_image():
    options = {"camera_distance_range": (0.8, 1.2), "fovy_range": (30.0, 50.0)}
    cameras = Around(**options, relative_distance=True, eval_camera=(15.0, 8.0, 20.0))
    for fov, expected in ((0.0, 40.0), (60.0, 60.0)):
        camera = ImageReference(camera=(0.0, 5.0, 0.0, fov)).camera_among(cameras)
        assert camera.fov.item() == pytest.approx(math.radians(expected))
        distance = 1 / math.tan(math.radians(expected) / 2)
        assert camera.distance.item() == pytest.approx(distance, rel=1e-6)


def test_a_reference_reads_back_from_yaml(cut_out):
    reference = ImageReference(cut_out, camera=(10.0, 5.0, 3.8, 20.0), depth_kind="disparity")
    e = Experiment(("",), representation=NeRF(), reference=reference)
    assert from_yaml(Experiment, to_yaml(e)) == e


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color_weight": -1.0}, "reference.color_weight must not be negative, not -1"),
        ({"camera": (0.0, 95.0, 0.0, 0.0)}, "an elevation in"),
        ({"depth": Path("d.png")}, "reference.depth belongs to an image"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageReference(**options)


def test_a_reference_needs_a_3d_representation_of_images(cut_out):
    with pytest.raises(ValueError, match="the representation latents is 2D"):
        Experiment(("a duck",), representation=Latents(), reference=ImageReference(cut_out))
    with pytest.raises(ValueError, match="a prompt is missing"):
        Experiment(("",), representation=NeRF())


# runs


def experiment(cut_out: Path, **options) -> Experiment:
    defaults = {
        "prompts": ("red disc",),
        "representation": Ball(),
        "reference": ImageReference(cut_out),
        "steps": 4,
        "method": SDS(5.0),
    }
    return Experiment(**defaults | options)


def test_the_losses_are_those_of_the_view_of_the_image(cut_out):
    e = experiment(cut_out, representation=GaussianSplats(num_gaussians=300, size=(16, 16)))
    prior = colored_shapes(16)
    run, without = Run(e, prior), Run(replace(e, reference=ImageReference()), prior)
    step = run.advance()
    assert {"reference_color", "reference_mask"} <= set(step.metrics)
    assert not any(name.startswith("reference") for name in without.advance().metrics)
    images = read_reference_images(cut_out, None, None, 0.7).at(16, 16)
    run = Run(e, prior)
    render = run.representation.render(
        run.reference.request(torch.tensor([0]), 0.0, run.render(run.eval_request(1)))
    )
    target = images.color + (1 - images.mask) * render.background
    color = (render.image - target).square().mean()
    mask = (render.alpha - images.mask).square().mean()
    assert step.metrics["reference_color"].item() == pytest.approx(5000 * color.item(), rel=1e-4)
    assert step.metrics["reference_mask"].item() == pytest.approx(500 * mask.item(), rel=1e-4)


def test_an_object_takes_the_color_and_the_size_of_its_image(tmp_path):
    """A ball of .8 on gray, fitted to an image of a red disc of half the height alone."""
    y, x = np.mgrid[:64, :64] - 31.5
    disc = np.hypot(x, y) < 16
    image = save(tmp_path / "disc.png", with_alpha(np.full((64, 64, 3), RED), disc))
    reference = ImageReference(image, camera=(0.0, 0.0, 3.6, 40.0), object_size=0.5)
    e = experiment(
        image, representation=Ball(lr=0.1), reference=reference, method=SDS(1.0), steps=60
    )
    run = Run(e, colored_shapes(16))
    for _ in range(e.steps):
        step = run.advance()
    color = run.representation.params["color"][0].sigmoid().detach()
    assert max_difference(color, torch.tensor(RED) / 255) < 0.05
    # the tangent of the rim is half of that of the field of view
    expected = 3.6 * math.sin(math.atan(0.5 * math.tan(math.radians(20))))
    assert run.representation.params["radius"][0].item() == pytest.approx(expected, rel=0.05)
    assert step.metrics["reference_color"] < 40


FROZEN_MESH = DMTet(grid_resolution=8, geometry=False, size=(16, 16))


@pytest.mark.parametrize(
    ("representation", "options", "message"),
    [
        (FROZEN_MESH, {"mask_weight": 7.0}, "reference.mask_weight 7 .* not optimize its shape"),
        (FROZEN_MESH, {"depth_weight": 1.0}, "reference.depth_weight 1 .* not optimize its shape"),
        (FROZEN_MESH, {"normal_weight": 1.0}, "reference.normal_weight 1 .* optimize its normals"),
        (GaussianSplats(), {"normal_weight": 2.0}, "gaussian-splats does not optimize its normals"),
    ],
)
def test_losses_of_what_is_not_optimized_are_refused(cut_out, representation, options, message):
    for name in ("depth", "normal"):
        if f"{name}_weight" in options:
            options = options | {name: save(cut_out.parent / "m.png", np.ones((64, 64, 3)))}
    e = experiment(
        cut_out, representation=representation, reference=ImageReference(cut_out, **options)
    )
    with pytest.raises(ValueError, match=message):
        Run(e, colored_shapes(16))
    trained = DMTet(grid_resolution=8, size=(16, 16))
    Run(replace(e, representation=trained), colored_shapes(16))


def test_a_frozen_shape_records_the_loss_of_the_silhouette_and_says_that_it_is_idle(cut_out):
    with display_notices(lambda text: None), collect_notices() as notices:
        run = Run(experiment(cut_out, representation=FROZEN_MESH), colored_shapes(16))
    assert any("reference.mask_weight 500 changes nothing here" in notice for notice in notices)
    assert run.advance().metrics["reference_mask"] > 0


def test_normals_as_colors_are_not_compared_with_the_colors_of_the_image(cut_out):
    """As in the geometry stages of Fantasia3D and ProlificDreamer."""
    stage = DMTet(grid_resolution=8, size=(16, 16), shading="normals", texture=False)
    with display_notices(lambda text: None), collect_notices() as notices:
        run = Run(experiment(cut_out, representation=stage), colored_shapes(16))
    assert any("reference.color_weight 5000 is not used here" in notice for notice in notices)
    metrics = run.advance().metrics
    assert "reference_color" not in metrics and metrics["reference_mask"] > 0
    colored = replace(stage, shading="texture", texture=True)
    run = Run(experiment(cut_out, representation=colored), colored_shapes(16))
    assert run.advance().metrics["reference_color"] > 0


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_normals_of_a_field_are_rendered_for_their_loss_only(cut_out, weight):
    options = {"normal": save(cut_out.parent / "n.png", np.ones((64, 64, 3)))} if weight else {}
    reference = ImageReference(cut_out, normal_weight=weight, **options)
    field = NeRF(samples=8, occupancy_resolution=8, size=(16, 16), orientation_weight=1.0)
    run = Run(experiment(cut_out, representation=field, reference=reference), colored_shapes(16))
    request = run.reference.request(torch.tensor([0]), 0.0, run.render(run.eval_request(1)))
    assert (run.render(request).normal is not None) == bool(weight)
    assert run.render(run.eval_request(1)).normal is not None
    assert ("reference_normal" in run.advance().metrics) == bool(weight)


def test_a_field_of_latents_is_refused(cut_out):
    e = experiment(cut_out, representation=NeRF(space="latent", samples=4))
    with pytest.raises(ValueError, match="this representation renders latents"):
        Run(e, colored_shapes(16))


def test_a_model_of_prompts_needs_one(cut_out):
    with pytest.raises(ValueError, match="this model reads the prompt, not the image"):
        Run(experiment(cut_out, prompts=("",)), colored_shapes(16))


def test_the_losses_do_not_wait_for_the_device(tmp_path, cut_out):
    ramp = np.tile(np.arange(64)[:, None, None] * 4, (1, 64, 3))
    other = save(tmp_path / "other.png", ramp)
    options = ImageReference(cut_out, other, other, depth_weight=1.0, normal_weight=1.0)
    images = options.read_images()
    assert images is not None
    with fake_cuda.gpu() as notes:
        view = ReferenceView(options, images.to(fake_cuda.GPU_NAME), options.camera_among(Orbit()))
        image, normal = (torch.rand(1, 3, 16, 16, device=fake_cuda.GPU_NAME) for _ in range(2))
        alpha, depth = (torch.rand(1, 1, 16, 16, device=fake_cuda.GPU_NAME) for _ in range(2))
        render = Render(image, "image", alpha, depth, normal.requires_grad_(), {}, image)
        notes.clear()
        losses = view.losses(render)
        view.request(torch.tensor([0, 0, 1]), 0.5, render)
        assert list(notes) == []
    assert set(losses) == {f"reference_{name}" for name in ("color", "mask", "depth", "normal")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": (50.0, 5.0, 0.0, 0.0)}, "reference.camera has no effect without an image"),
        ({"depth_weight": 1.0}, "reference.depth_weight has no effect without an image"),
        ({"image": "x", "depth": "x"}, "has no effect with the weight 0: give --reference.depth-w"),
        ({"image": "x", "normal_weight": 2.0}, "reference.normal_weight 2.0 has no effect without"),
    ],
)
def test_options_without_effect_are_refused(tmp_path, options, message):
    path = save(tmp_path / "x.png", np.ones((8, 8, 4)))
    options = {key: path if value == "x" else value for key, value in options.items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        ImageReference(**options).read_images()
