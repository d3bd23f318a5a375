"""The .svg of a drawing opens in other programs as we render it, at any size."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_2d import image_to_tensor
from tiny_pipeline import normal
from torch import Tensor

from limbeck.graphics.rendering.polylines import distance_to_polyline
from limbeck.priors.exact import colored_shapes
from limbeck.representations.paths import Paths, flatten_contours
from limbeck.representations.primitives import PrimitiveParticles
from limbeck.representations.strokes import Strokes

SIZE = 96


def rasterize_by_rsvg(drawing: Path, image: Path, size: int) -> None:
    options = ["-w", str(size), "-h", str(size), str(drawing), "-o", str(image)]
    subprocess.run(["rsvg-convert", *options], check=True, timeout=60)


def rasterize_by_inkscape(drawing: Path, image: Path, size: int) -> None:
    options = [str(drawing), f"--export-filename={image}", "-w", str(size), "-h", str(size)]
    subprocess.run(["inkscape", *options], check=True, capture_output=True, timeout=300)


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


def rasterize_by_chromium(drawing: Path, image: Path, size: int) -> None:
    scale, margin = size / SIZE, 200  # the bars of some versions are part of the window
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--force-device-scale-factor={scale}",
        f"--window-size={SIZE + margin},{SIZE + margin}",
        f"--user-data-dir={image.parent / 'profile'}",
        f"--screenshot={image}",
    ]
    command = [str(CHROMIUM), *options, str(drawing)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(image) as window:
        window.crop((0, 0, size, size)).save(image)


RASTERIZERS = [
    pytest.param(
        rasterize_by_chromium,
        id="chromium",
        marks=[pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")],
    ),
    pytest.param(
        rasterize_by_rsvg,
        id="rsvg-convert",
        marks=pytest.mark.skipif(
            shutil.which("rsvg-convert") is None, reason="no rsvg-convert (librsvg2-bin)"
        ),
    ),
    pytest.param(
        rasterize_by_inkscape,
        id="inkscape",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(shutil.which("inkscape") is None, reason="no Inkscape"),
        ],
    ),
]


def drawing_of(config: Paths | Strokes) -> PrimitiveParticles:
    """A drawing of bent shapes in layers, of any color and opacity."""
    drawing = config.build(colored_shapes(16), 1, 1)
    drawing.size = (SIZE, SIZE)
    for i, p in enumerate(drawing.parameters()):
        p.data += (0.03 if p.shape[-1] == 2 else 0.8) * normal(*p.shape, seed=i).to(p)
    return drawing


def far_from_edges(drawing: PrimitiveParticles, size: int) -> Tensor:
    """Pixels farther than a pixel and a half from every contour of filled paths."""
    centers = torch.arange(size) + 0.5
    points = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), -1).view(-1, 2)
    with torch.no_grad():
        paths = drawing.pixel_paths(torch.arange(1), size, size)
        lines = flatten_contours(paths.points, 48)[0]
        distance = torch.stack([distance_to_polyline(line[None], points)[0] for line in lines])
    return (distance.amin(0) > 1.5).view(size, size)


def difference(drawing: PrimitiveParticles, rasterize, folder: Path, size: int) -> Tensor:
    """|their image - ours|."""
    drawing.save(folder, ["drawing"])
    rasterize(folder / "drawing.svg", folder / "drawing.png", size)
    with Image.open(folder / "drawing.png") as image:
        assert image.size == (size, size)
        theirs = image_to_tensor(image.convert("RGB"))
    ours = drawing.render_at(torch.arange(1), size, size)[0].detach().float()
    return (theirs - ours).abs()


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
@pytest.mark.parametrize("rasterize", RASTERIZERS)
def test_filled_paths(rasterize, size: int, tmp_path) -> None:
    drawing = drawing_of(Paths(num_paths=24, init_radius=(0.1, 0.3), num_segments=24))
    found = difference(drawing, rasterize, tmp_path, size)
    assert float(found.mean()) < 0.004
    assert float((found > 0.1).float().mean()) < 0.001
    inner = far_from_edges(drawing, size)
    assert float(inner.float().mean()) > 0.1
    # eight bits for each of several layers, and three digits of each opacity
    assert float(found[:, inner].max()) < 0.01


@pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
@pytest.mark.parametrize("rasterize", RASTERIZERS)
def test_strokes(rasterize, size: int, tmp_path) -> None:
    drawing = drawing_of(Strokes(num_strokes=24, num_segments=24))
    found = difference(drawing, rasterize, tmp_path, size)
    assert float(found.mean()) < 0.004
    assert float((found > 0.1).float().mean()) < 0.001
