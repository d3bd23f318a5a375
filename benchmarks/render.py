"""Seconds and peak memory of a view of what has sides, forward and backward, at 64, 128 and 256 pixels.

    python benchmarks/render.py [--device cuda] [--only splats]

One function per representation returns what is measured. Seconds are the median of several renders after one that warms up; on a
CPU, processor time of one thread. Peak is the most that PyTorch held at once during forward and backward beyond what it
held before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.rendering.shading import Shading
from limbeck.priors.loading import pick_device
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Representation
from limbeck.representations.dmtet import DMTet
from limbeck.representations.dmtet import Shading as Shown
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.nerf import NeRF

Made = Callable[[int, str], Representation]


@dataclass
class Blank:
    """What a spec asks of a prior, and no model."""

    size: int
    device: str
    unit: int = 0

    @property
    def image_size(self) -> tuple[int, int]:
        return (self.size, self.size)


def mesh(cells: int, shading: Shown = "lit", geometry: bool = True) -> Made:
    """An ellipsoid out of a grid of this many cells, as a run begins with."""

    def made(size: int, device: str) -> Representation:
        prior: Prior = Blank(size, device)  # type: ignore[assignment]
        return DMTet(cells=cells, radii=(0.9, 0.9, 0.9), shading=shading, geometry=geometry).build(
            prior, 1, 0
        )

    return made


def splats(count: int, spacing: float = 0.6) -> Made:
    """A ball of Gaussians as a run begins with, or larger ones."""

    def made(size: int, device: str) -> Representation:
        prior: Prior = Blank(size, device)  # type: ignore[assignment]
        return GaussianSplats(count=count, spacing=spacing).build(prior, 1, 0)

    return made


def field(**options: object) -> Made:
    """A field as the recipes begin with: a ball of which rays skip what is empty."""

    def made(size: int, device: str) -> Representation:
        prior: Prior = Blank(size, device)  # type: ignore[assignment]
        shown = NeRF(**options).build(prior, 1, 0)  # type: ignore[arg-type]
        shown.after_step(15, 16, torch.optim.SGD(shown.parameters(), 0.0))
        return shown

    return made


SMALL, LARGE = DenseGridEncoding(levels=(12, 24, 48)), HashGridEncoding(levels=16)
SHOWN: dict[str, Made] = {
    "field, dense grids": field(encoding=SMALL), "field, dense grids, lit": field(encoding=SMALL, shading=Shading(0.0, 1.0)),
    "field, hash 16 x 2, decoder": field(encoding=LARGE, decoder=MLPDecoder(hidden=32)),
    "mesh, 32 cells": mesh(32), "mesh, 32 cells, fixed": mesh(32, geometry=False), "mesh, 32 cells, normals": mesh(32, "normals"),
    "mesh, 64 cells": mesh(64), "mesh, 128 cells": mesh(128),
    "splats, 1,000": splats(1000), "splats, 4,000": splats(4000), "splats, 4,000, twice as wide": splats(4000, 1.2),
    "splats, 16,000": splats(16000),
}  # fmt: skip


def clock(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def there_and_back(made: Representation, view: RenderRequest, device: str) -> tuple[float, float]:
    """Seconds forward and backward of one render."""
    start = clock(device)
    render = made.render(view)
    middle = clock(device)
    (render.image.square().sum() + sum(made.regularize(render, 0.0).values())).backward()
    return middle - start, clock(device) - middle


def peak_bytes(made: Representation, view: RenderRequest, device: str) -> int:
    """The most PyTorch held at once during one render and its backward, beyond what it held before."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        there_and_back(made, view, device)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        there_and_back(made, view, device)
    held = most = 0
    changes = [
        event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return most


def measured(made: Representation, device: str, repeats: int) -> tuple[float, float, int]:
    """Seconds forward, seconds backward, peak bytes, as in a step of training: one view from slightly above."""
    camera = turntable_cameras(1, 15.0, 3.6, 40.0)
    times = []
    for _ in range(repeats + 1):
        made.zero_grad(set_to_none=True)
        times.append(
            there_and_back(
                made,
                RenderRequest(torch.tensor([0]), camera, torch.Generator().manual_seed(0)),
                device,
            )
        )
    forward, backward = (statistics.median(column) for column in zip(*times[1:], strict=True))
    made.zero_grad(set_to_none=True)
    return (
        forward,
        backward,
        peak_bytes(
            made, RenderRequest(torch.tensor([0]), camera, torch.Generator().manual_seed(0)), device
        ),
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--only", default="", help="rows whose name begins so")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    device = pick_device(chosen.device)
    print(
        "| | "
        + " | ".join(f"{size}: forward, backward ms; peak MB" for size in chosen.sizes)
        + " |"
    )
    print("|---|" + "---|" * len(chosen.sizes))
    for name, make in SHOWN.items():
        if name.startswith(chosen.only):
            cells = (measured(make(size, device), device, chosen.repeats) for size in chosen.sizes)
            print(
                f"| {name} | "
                + " | ".join(f"{1e3 * f:.0f}, {1e3 * b:.0f}; {p / 1e6:.0f}" for f, b, p in cells)
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    main()
