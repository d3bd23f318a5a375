"""Strokes against the formula of their compositing, and their SVG files."""

from __future__ import annotations

import base64
import io
import math
from itertools import pairwise

import pytest
import torch
from gaussians import pixel_centers
from rich.console import Console
from tiny_pipeline import check_gradients, max_difference, normal
from torch import Tensor

from limbeck.graphics.rendering.polylines import bernstein_basis
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.strokes import (
    PixelStrokes,
    StrokeParticles,
    Strokes,
    render_strokes,
    strokes_to_svg,
)
from limbeck.runs.recorder import record
from limbeck.runs.report.run_data import read_run_data
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment


def stroke_particles(
    num_strokes: int, height: int, width: int, particles: int = 1, num_segments: int = 12
) -> StrokeParticles:
    """Strokes with perturbed parameters."""
    config = Strokes(num_strokes=num_strokes, init_color_std=1.0, num_segments=num_segments)
    initial = config._initial_params(RowRandom.initial(1, particles), (height, width))
    strokes = StrokeParticles(
        initial, config._lrs(), (height, width), num_segments, config.max_width
    ).double()
    for i, p in enumerate(strokes.parameters()):
        p.data += (0.05 if p.shape[-1] == 2 else 0.8) * normal(*p.shape, seed=i)
    return strokes


def composite_densely(strokes: PixelStrokes, height: int, width: int, num_segments: int) -> Tensor:
    """The formula, stroke by stroke and segment by segment over all pixels."""
    y, x = pixel_centers(height, width)
    pixel, images = torch.stack([x, y], -1), []
    for b in range(len(strokes.widths)):
        image = torch.zeros(3, height, width, dtype=torch.float64)
        transmittance = torch.ones_like(x)
        for i in range(strokes.widths.shape[1]):
            distance = torch.full_like(x, math.inf)
            for start, end in pairwise(bernstein_basis(num_segments) @ strokes.points[b, i]):
                segment = end - start
                fraction = ((pixel - start) @ segment / segment.square().sum()).clamp(0, 1)
                nearest = start + fraction[..., None] * segment
                distance = torch.minimum(distance, (pixel - nearest).norm(dim=-1))
            half = strokes.widths[b, i] / 2
            overlap = torch.minimum(distance + 0.5, half) - torch.maximum(distance - 0.5, -half)
            alpha = strokes.opacities[b, i] * overlap.clamp_min(0)
            image = image + transmittance * alpha * strokes.colors[b, i, :, None, None]
            transmittance = transmittance * (1 - alpha)
        images.append(image + transmittance * strokes.background[b, :, None, None])
    return torch.stack(images)


def test_tiles_agree_with_dense_compositing():
    strokes = stroke_particles(30, 21, 34, particles=2).pixel_strokes(torch.arange(2), 21, 34)
    image = render_strokes(strokes, 21, 34, 12)
    assert max_difference(image, composite_densely(strokes, 21, 34, 12)) < 1e-6


def test_gradients_are_finite_differences():
    particles = stroke_particles(4, 12, 16, num_segments=5)
    probe = normal(1, 3, 12, 16, seed=9)

    def loss():
        return (particles.render_at(torch.arange(1), 12, 16) * probe).sum()

    check_gradients(particles, loss, 1e-4)


def test_an_svg_lists_the_strokes_back_to_front():
    strokes = stroke_particles(3, 16, 24).pixel_strokes(torch.arange(1), 16, 24)
    text = strokes_to_svg(strokes, 0, 16, 24)
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg" width="24" height="16"')
    assert text.count("<path") == 3
    last = text[text.rindex("<path") :]
    x, y = strokes.points[0, 0, 0].tolist()
    assert f'd="M{x:.3f} {y:.3f} C' in last
    assert f'stroke-width="{strokes.widths[0, 0].item():.3f}"' in last


def test_a_run_writes_svg_files_and_its_report_shows_them(tmp_path):
    e = Experiment(
        ("red disc", "blue ring"),
        model="gaussians",
        method=SDS(5.0),
        representation=Strokes(num_strokes=6),
        particles=2,
        steps=2,
    )
    folder = tmp_path / "run"
    record(e, colored_shapes(12), folder, console=Console(file=io.StringIO()))
    stems = ["00-00", "00-01", "01-00", "01-01"]
    assert sorted(path.stem for path in (folder / "final").glob("*.svg")) == stems
    head = "data:image/svg+xml;base64,"
    images = [image for _, row in read_run_data(folder).finals() for image in row]
    for image, stem in zip(images, stems, strict=True):
        assert image.src.startswith(head) and not image.pixelated and image.width == 12
        svg = base64.b64decode(image.src.removeprefix(head)).decode()
        assert svg == (folder / "final" / f"{stem}.svg").read_text()
    page = (folder / "report.html").read_text()
    assert page.count(head) == 4 and "Shown as the SVG files in final/." in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_width": 0.5}, r"init_width must be in \(0, 0.3\), not 0.5"),
        ({"num_segments": 0}, "num_segments must be at least 1, not 0"),
        ({"init_length": 0.0}, "init_length must be positive, not 0"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Strokes(**options)
