"""Filled paths against an independent rasterizer, closed forms and their SVG."""

from __future__ import annotations

import math
import re

import pytest
import torch
from PIL import Image, ImageDraw
from tiny_pipeline import check_gradients, max_difference, normal
from torch import Tensor

from limbeck.graphics.rendering.polylines import distance_to_polyline
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.paths import (
    PathParticles,
    Paths,
    PixelPaths,
    flatten_contours,
    paths_to_svg,
    render_paths,
    winds_around,
)
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


def path_particles(num_paths: int, size: tuple[int, int], particles: int = 1) -> PathParticles:
    """Paths with bent contours and other colors."""
    config = Paths(num_paths=num_paths, init_color_std=1.0, init_radius=(0.1, 0.3))
    initial = config._initial_params(RowRandom.initial(1, particles), size)
    paths = PathParticles(initial, config._lrs(), size, config.num_segments).double()
    for i, p in enumerate(paths.parameters()):
        p.data += (0.03 if p.shape[-1] == 2 else 0.8) * normal(*p.shape, seed=i)
    return paths


def polygon_coverage(line: Tensor, height: int, width: int, scale: int = 16) -> Tensor:
    """Fraction of each pixel inside a polygon, by PIL at 16 x 16 points per pixel."""
    image = Image.new("L", (width * scale, height * scale))
    ImageDraw.Draw(image).polygon([(x * scale - 0.5, y * scale - 0.5) for x, y in line.tolist()], 1)
    points = torch.tensor(list(image.getdata()), dtype=torch.float64)
    return points.view(height, scale, width, scale).mean((1, 3))


def polygon_render(corners: list[list[float]], height: int, width: int) -> Tensor:
    """Our coverage of a polygon."""
    a = torch.tensor(corners).double()
    b = a.roll(-1, 0)
    points = torch.stack([a, a.lerp(b, 1 / 3), a.lerp(b, 2 / 3)], 1).view(1, 1, -1, 2)
    ones = torch.ones(1, 1, 3).double()
    paths = PixelPaths(points, ones, ones[..., 0], torch.zeros(1, 3).double())
    return render_paths(paths, height, width, 1)[0, 0]


def svg_contours(svg: str, num_points: int = 400) -> list[tuple[Tensor, list[float], float]]:
    """Polylines of the paths of an SVG with color and opacity, read from its text."""
    found = []
    for d, fill, opacity in re.findall(r'd="M(.*?) Z" fill="#(\w+)" fill-opacity="(.*?)"', svg):
        numbers = [float(n) for n in re.findall(r"[-\d.]+", d)]
        points = torch.tensor(numbers, dtype=torch.float64).view(-1, 2)
        u = torch.linspace(0, 1, num_points, dtype=torch.float64)[:, None]
        line = []
        for i in range(0, len(points) - 1, 3):
            a, b, c, e = points[i : i + 4]
            one, two, three = a.lerp(b, u), b.lerp(c, u), c.lerp(e, u)  # de Casteljau
            line.append(one.lerp(two, u).lerp(two.lerp(three, u), u))
        color = [int(fill[k : k + 2], 16) / 255 for k in (0, 2, 4)]
        found.append((torch.cat(line), color, float(opacity)))
    return found


def test_the_svg_rasterized_by_another_program_is_the_render() -> None:
    height, width = 48, 64
    paths = path_particles(12, (height, width))
    with torch.no_grad():
        pixel = paths.pixel_paths(torch.tensor([0]), height, width)
        ours = render_paths(pixel, height, width, 16)[0]
    svg = paths_to_svg(pixel, 0, height, width)
    background = re.search(r'<rect .*fill="#(\w+)"', svg)
    assert background
    image = torch.tensor([int(background[1][k : k + 2], 16) / 255 for k in (0, 2, 4)])
    image = image.double()[:, None, None].expand(3, height, width)
    contours = svg_contours(svg)
    assert len(contours) == 12
    for line, color, opacity in contours:  # back to front
        alpha = opacity * polygon_coverage(line, height, width)
        image = image * (1 - alpha) + torch.tensor(color).double()[:, None, None] * alpha
    difference = (ours - image).abs()
    assert float(difference.mean()) < 0.006
    assert float((difference.amax(0) > 0.15).double().mean()) < 0.01


def test_the_area_of_an_initial_disc_is_that_of_a_circle() -> None:
    config = Paths(num_paths=1, num_curves=4, init_radius=(0.2, 0.2))
    points = config._initial_params(RowRandom.initial(0, 1), (64, 64))["points"][0, 0].double() * 64
    points = points - points[::3].mean(0) + 32
    white = PixelPaths(
        points[None, None],
        torch.ones(1, 1, 3).double(),
        torch.ones(1, 1).double(),
        torch.zeros(1, 3).double(),
    )
    area = float(render_paths(white, 64, 64, 32)[0, 0].sum())
    assert area == pytest.approx(math.pi * 12.8**2, rel=3e-3)


def test_the_winding_number_is_nonzero_inside_a_loop_that_is_wound_twice() -> None:
    square = torch.tensor([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    twice = torch.cat([square, square, square[:1]])
    inside, outside = torch.tensor([[1.0, 2.5], [3.9, 0.1]]), torch.tensor([[5.0, 2], [-1, 2]])
    for line in (torch.cat([square, square[:1]]), twice, twice.flip(0)):
        assert bool(winds_around(line, inside).all())
        assert not bool(winds_around(line, outside).any())


def test_an_edge_along_the_grid_is_covered_by_its_fraction() -> None:
    image = polygon_render([[4.25, 4], [20, 4], [20, 20], [4.25, 20]], 24, 24)
    assert image[12, 3:6].tolist() == pytest.approx([0, 0.75, 1], abs=1e-5)


@pytest.mark.parametrize("thickness", [1, 0.5, 0.2, 0.05, 0])
@pytest.mark.parametrize("row", [8.0, 8.5])
def test_a_thin_shape_covers_too_much_on_pixel_centers_only(thickness: float, row: float) -> None:
    top, bottom = row - thickness / 2, row + thickness / 2
    image = polygon_render([[4, top], [44, top], [44, bottom], [4, bottom]], 16, 48)
    excess = (1 - thickness) / 2 if row == 8.5 else 0
    assert float(image.sum()) == pytest.approx(40 * (thickness + excess), abs=1e-3)


def test_the_crossing_part_of_a_contour_is_a_seam_and_all_else_the_filled_shape() -> None:
    angle = torch.arange(48) / 12 * math.pi  # two turns, of two radii
    radius = 10 + 4 * torch.cos(angle / 2)
    corners = torch.stack([radius * angle.cos(), radius * angle.sin()], 1).double() + 16
    image = polygon_render(corners.tolist(), 32, 32)
    grid = (torch.arange(32 * 8) + 0.5).double() / 8
    samples = torch.cartesian_prod(grid, grid).flip(1)
    line = torch.cat([corners, corners[:1]])
    filled = winds_around(line, samples).double().view(32, 8, 32, 8).mean((1, 3))
    excess = image - filled
    assert 0.4 < float(-excess.min()) <= 0.5 and float(excess.max()) < 0.15
    centers = (torch.cartesian_prod(*[torch.arange(32)] * 2).flip(1) + 0.5).double()
    far = distance_to_polyline(line, centers).view(32, 32) > 0.75
    assert float(excess[far].abs().max()) < 1e-6


def test_contours_are_closed_and_pass_their_points() -> None:
    points = normal(2, 12, 2)
    line = flatten_contours(points, 5)
    assert line.shape == (2, 21, 2)
    assert torch.equal(line[:, 0], line[:, -1])
    assert max_difference(line[:, :-1:5], points[:, ::3]) < 1e-12


def test_images_of_a_batch_do_not_depend_on_each_other() -> None:
    paths = path_particles(20, (32, 32), particles=3)
    with torch.no_grad():
        together = paths.render_at(torch.arange(3), 32, 32)
        alone = torch.cat([paths.render_at(torch.tensor([i]), 32, 32) for i in range(3)])
    assert max_difference(together, alone) < 1e-12


def test_gradients() -> None:
    paths = path_particles(3, (12, 12))
    target = normal(1, 3, 12, 12, seed=9)
    check_gradients(
        paths, lambda: (paths.render_at(torch.tensor([0]), 12, 12) * target).sum(), 1e-4
    )


def test_a_run_moves_every_parameter_and_saves_a_drawing(tmp_path) -> None:
    e = Experiment(
        ("red disc",), method=SDS(7.5), representation=Paths(num_paths=12), particles=2, steps=2
    )
    run = Run(e, colored_shapes(16))
    before = {k: v.clone() for k, v in run.representation.state_dict().items()}
    run.advance()
    after = run.representation.state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in before)
    run.representation.save(tmp_path, ["a", "b"])
    assert (tmp_path / "b.svg").read_text(encoding="utf-8").count("<path") == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_paths": 0}, "num_paths must be at least 1, not 0"),
        ({"num_curves": 1}, "num_curves must be at least 2, not 1"),
        ({"init_radius": (0.2, 0.1)}, "init_radius must be positive and grow to the back"),
        ({"init_opacity": 1.0}, r"init_opacity must be in \(0, 0.99\), not 1"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Paths(**options)
