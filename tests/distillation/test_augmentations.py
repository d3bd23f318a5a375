"""The random perspective and crop of rendered images: geometry, draws, gradients, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from small_2d import write_noise_image
from tiny_pipeline import f64, max_difference, normal, row_rng
from torch import Tensor

from limbeck.diffusion.model_options import Model
from limbeck.distillation.augmentations import (
    NoAugmentation,
    PerspectiveCrop,
    project,
    projective_map,
)
from limbeck.methods.dds import DDS
from limbeck.methods.sdi import SDI
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.representations.paths import Paths
from limbeck.representations.pixels import Pixels
from limbeck.representations.strokes import Strokes
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

DRAWINGS = {
    "strokes": Strokes(num_strokes=12),
    "paths": Paths(num_paths=12),
    "gaussians-2d": Gaussians2D(num_gaussians=12),
    "pixels": Pixels(num_levels=3),
}


def run_of(representation, augmentation, **options) -> Run:
    experiment = Experiment(
        ("red disc",),
        method=SDS(3.0),
        representation=representation,
        augmentation=augmentation,
        particles=2,
        steps=4,
        **options,
    )
    return Run(experiment, colored_shapes(16))


def smooth_image(size: int) -> Tensor:
    """Waves that bilinear interpolation follows closely, with a channel of ones."""
    x = torch.arange(size, dtype=torch.float64) / size
    waves = 0.5 + 0.4 * torch.sin(5 * x[:, None] + 3 * x)
    return torch.stack([waves, waves.T.flip(0), torch.ones_like(waves)])


def test_a_projective_map_takes_four_points_to_four_others() -> None:
    square = f64([[0, 0], [1, 0], [1, 1], [0, 1]])
    source, target = square + 0.2 * normal(5, 4, 2), square + 0.2 * normal(5, 4, 2, seed=1)
    maps = projective_map(source, target)
    for row in range(5):
        mapped = project(maps[row : row + 1], source[row][:, None])
        assert max_difference(mapped[0, :, 0], target[row]) < 1e-10


def test_the_corners_move_inwards_by_half_the_distortion_at_most() -> None:
    """The map back takes the moved corners to those of the image."""
    rows = 400
    maps = PerspectiveCrop(0.5, 1.0, 0.0).draw_maps(row_rng(rows))
    corners = project(maps.inverse(), f64([[0, 0], [1, 0], [1, 1], [0, 1]])[:, None])[:, :, 0]
    inwards = torch.minimum(corners, 1 - corners)
    assert float(inwards.min()) > -1e-9
    assert 0.24 < float(inwards.max()) < 0.25 + 1e-9


def test_the_window_of_a_crop_lies_within_the_image() -> None:
    maps = PerspectiveCrop(0.0, 0.7, 0.2).draw_maps(row_rng(400))
    low, high = project(maps, f64([[0, 0], [1, 1]])[:, None])[:, :, 0].unbind(1)
    assert max_difference(high - low, torch.full_like(low, 0.8)) < 1e-9
    assert -1e-9 < float(low.min()) < 0.01
    assert 0.19 < float(low.max()) < 0.2 + 1e-9


def test_seven_of_ten_rows_get_a_perspective() -> None:
    maps = PerspectiveCrop(crop=0.0).draw_maps(row_rng(4000))
    plain = (maps - torch.eye(3)).abs().amax((1, 2)) < 1e-9
    assert abs(float(plain.double().mean()) - 0.3) < 4 * (0.21 / 4000) ** 0.5


def test_the_image_is_that_of_pillow() -> None:
    """Pillow's perspective transform with the same coefficients, within the image."""
    size, rows = 96, 4
    augmentation, rng = PerspectiveCrop(perspective_prob=1.0), row_rng(rows)
    image = smooth_image(size)
    found = augmentation(image.expand(rows, -1, -1, -1), rng)
    maps = augmentation.draw_maps(rng).numpy()
    to_pixels = np.diag([size, size, 1.0])
    for row in range(rows):
        matrix = to_pixels @ maps[row] @ np.linalg.inv(to_pixels)
        coefficients = (matrix / matrix[2, 2]).flatten()[:8]
        for channel in range(3):
            plane = Image.fromarray(image[channel].numpy().astype(np.float32), mode="F")
            transformed = plane.transform(
                (size, size), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR
            )
            expected = torch.from_numpy(np.array(transformed)).double()
            inside = found[row, 2] > 0.999
            assert inside.double().mean() > 0.4
            assert float((found[row, channel] - expected)[inside].abs().max()) < 2e-3


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_outside_the_image_is_the_fill(fill: float) -> None:
    image = torch.full((20, 3, 16, 16), 0.5)
    found = PerspectiveCrop(perspective_prob=1.0, crop=0.0, fill=fill)(image, row_rng(20))
    low, high = sorted((0.5, fill))
    assert float(found.min()) >= low - 1e-6
    assert float(found.max()) <= high + 1e-6
    corners = found[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert float((corners - fill).abs().median()) < 1e-6


def test_without_distortion_and_crop_nothing_changes() -> None:
    image = normal(2, 3, 8, 8)
    for augmentation in (NoAugmentation(), PerspectiveCrop(0.0, 0.7, 0.0)):
        assert augmentation(image, row_rng(2)) is image
    assert PerspectiveCrop(0.5, 0.0, 0.0)(image, row_rng(2)) is image
    for representation in DRAWINGS.values():
        plain = run_of(representation, NoAugmentation())
        zero = run_of(representation, PerspectiveCrop(0.0, 0.0, 0.0))
        for _ in range(2):
            assert torch.equal(plain.advance().gradient, zero.advance().gradient)


def test_a_row_does_not_depend_on_the_others() -> None:
    image, rng = normal(5, 3, 16, 16, dtype=torch.float32), row_rng(5)
    augmentation = PerspectiveCrop()
    together = augmentation(image, rng)
    for row in range(5):
        rows = slice(row, row + 1)
        assert torch.equal(augmentation(image[rows], rng[rows]), together[rows])
    assert not torch.equal(augmentation(image[:1].repeat(2, 1, 1, 1), rng[:2])[0], together[1])


def test_the_gradient_is_that_of_the_image() -> None:
    image = normal(2, 3, 6, 6).requires_grad_()
    augmentation, rng = PerspectiveCrop(perspective_prob=1.0, fill=1.0), row_rng(2, seed=1)
    assert torch.autograd.gradcheck(lambda x: augmentation(x, rng), image)


@pytest.mark.parametrize("representation", DRAWINGS.values(), ids=DRAWINGS)
def test_the_gradient_of_a_step_reaches_every_drawing(representation) -> None:
    """All that moves without augmentation: the angle of a round Gaussian has no gradient."""

    def moved(augmentation) -> set[str]:
        run = run_of(representation, augmentation)
        before = {k: v.clone() for k, v in run.representation.state_dict().items()}
        assert bool(run.advance().gradient.isfinite().all())
        after = run.representation.state_dict()
        return {name for name in before if not torch.equal(before[name], after[name])}

    names = moved(NoAugmentation())
    assert names
    assert moved(PerspectiveCrop()) == names


@pytest.mark.parametrize("representation", DRAWINGS.values(), ids=DRAWINGS)
def test_what_the_model_sees_is_the_augmented_render(representation) -> None:
    run = run_of(representation, PerspectiveCrop())
    with torch.no_grad():
        render = run.representation.images(run.prior, run.eval_request(1))
    inputs = run.advance().inputs
    rng = RowRandom.of_step(run.experiment.run_seed, 0, torch.arange(2)).fold("augmentation")
    expected = PerspectiveCrop()(render, rng)
    assert max_difference(inputs.image, expected) < 1e-6
    assert max_difference(inputs.x0, run.prior.encode(expected)) < 1e-6
    assert max_difference(expected, render) > 0.1


@pytest.mark.parametrize("representation", DRAWINGS.values(), ids=DRAWINGS)
def test_a_resumed_run_draws_the_same(representation) -> None:
    whole, half = (run_of(representation, PerspectiveCrop()) for _ in range(2))
    whole.advance()
    half.load({name: tensor.clone() for name, tensor in whole.tensors().items()}, 1)
    for _ in range(2):
        first, second = whole.advance(), half.advance()
        assert torch.equal(first.inputs.image, second.inputs.image)
        assert torch.equal(first.gradient, second.gradient)
    assert all(torch.equal(v, half.tensors()[k]) for k, v in whole.tensors().items())


def test_what_is_no_drawing_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="warps rendered images, and the representation latents"):
        run_of(Latents(), PerspectiveCrop())
    with pytest.raises(ValueError, match=r"warps 2D drawings, but cameras look at .* nerf"):
        Experiment(("a",), representation=NeRF(), augmentation=PerspectiveCrop())
    with pytest.raises(ValueError, match="which an edit compares with its whole source"):
        Experiment(("a",), method=DDS(), source_prompt=("b",), augmentation=PerspectiveCrop())
    with pytest.raises(ValueError, match="shows another part of it in every step"):
        experiment = Experiment(
            ("red disc",),
            method=SDI(),
            representation=Pixels(num_levels=3),
            augmentation=PerspectiveCrop(),
        )
        Run(experiment, colored_shapes(16))
    image = write_noise_image(tmp_path / "noise.png", 16)
    model = Model("some/folder", control="some/control", control_image=image)
    with pytest.raises(ValueError, match=r"warps the render, but not model\.control_image"):
        Experiment(("a",), model=model, representation=Pixels(), augmentation=PerspectiveCrop())


def test_no_augmentation_is_refused_by_nothing() -> None:
    Experiment(("a",), representation=NeRF(), augmentation=PerspectiveCrop(0.0, 0.7, 0.0))


@pytest.mark.parametrize(
    "options", [{"distortion": 0.7}, {"perspective_prob": 1.1}, {"crop": 1.0}, {"fill": -0.1}]
)
def test_options_are_checked(options) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=name):
        Experiment(("a",), representation=Pixels(), augmentation=PerspectiveCrop(**options))
