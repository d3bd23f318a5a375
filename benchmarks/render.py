"""Time and peak memory of a 3D render, forward and backward, at 64, 128 and 256 pixels.

    python benchmarks/render.py [--device cuda] [--only splats]

Times are medians of several renders after one that warms up; on a CPU, CPU time of one
thread. Peaks are what PyTorch allocates during forward and backward pass beyond what was allocated
before.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from measuring import BlankPrior, clock, print_header, print_row
from torch.profiler import ProfilerActivity, profile

from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.rendering.shading import Shading
from limbeck.priors.loading import pick_device
from limbeck.representations.base import Representation
from limbeck.representations.dmtet import DMTet, MeshShading
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.representations.nerf import NeRF

Build = Callable[[int, str], Representation]


def mesh(cells: int, shading: MeshShading = "lit", geometry: bool = True) -> Build:
    """An ellipsoid in a grid of so many cells, the initialization of a run."""
    config = DMTet(
        grid_resolution=cells, init_radii=(0.9, 0.9, 0.9), shading=shading, geometry=geometry
    )

    def build(size: int, device: str) -> Representation:
        return config.build(BlankPrior(size, device), 1, 0)  # type: ignore[arg-type]

    return build


def splats(count: int, scale: float = 0.6) -> Build:
    """A ball of Gaussians, the initialization of a run with scale 0.6."""
    config = GaussianSplats(num_gaussians=count, init_scale=scale)

    def build(size: int, device: str) -> Representation:
        return config.build(BlankPrior(size, device), 1, 0)  # type: ignore[arg-type]

    return build


def nerf(**options: object) -> Build:
    """A NeRF with the density of a ball, the initialization of a run, and empty space skipped."""
    config = NeRF(**options)  # type: ignore[arg-type]

    def build(size: int, device: str) -> Representation:
        representation = config.build(BlankPrior(size, device), 1, 0)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(representation.parameters(), 0.0)
        representation.after_step(15, 16, optimizer)  # updates the occupancy grid
        return representation

    return build


DENSE, HASH = DenseGridEncoding(resolutions=(12, 24, 48)), HashGridEncoding(num_levels=16)
CASES: dict[str, Build] = {
    "nerf, dense grids": nerf(encoding=DENSE),
    "nerf, dense grids, lit": nerf(encoding=DENSE, shading=Shading(0.0, 1.0)),
    "nerf, hash 16 x 2, MLP": nerf(encoding=HASH, decoder=MLPDecoder(hidden_dim=32)),
    "mesh, 32 cells": mesh(32),
    "mesh, 32 cells, fixed": mesh(32, geometry=False),
    "mesh, 32 cells, normals": mesh(32, "normals"),
    "mesh, 64 cells": mesh(64),
    "mesh, 128 cells": mesh(128),
    "splats, 1,000": splats(1000),
    "splats, 4,000": splats(4000),
    "splats, 4,000, twice as wide": splats(4000, 1.2),
    "splats, 16,000": splats(16000),
}


def request() -> RenderRequest:
    """A view from slightly above, as in a training step."""
    camera = turntable_cameras(1, 15.0, 3.6, 40.0)
    return RenderRequest(torch.tensor([0]), camera, torch.Generator().manual_seed(0))


def forward_backward(representation: Representation, device: str) -> tuple[float, float]:
    """Seconds of the forward and the backward pass of one render."""
    view = request()
    start = clock(device)
    render = representation.render(view)
    middle = clock(device)
    losses = representation.regularize(render, 0.0).values()
    (render.image.square().sum() + sum(losses)).backward()
    return middle - start, clock(device) - middle


def peak_bytes(representation: Representation, device: str) -> int:
    """Peak bytes of one render, forward and backward, beyond what was allocated before."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward_backward(representation, device)
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        forward_backward(representation, device)
    events = profiler.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    allocated = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        allocated += change.nbytes()
        peak = max(peak, allocated)
    return peak


def measure(representation: Representation, device: str, repeats: int) -> tuple[float, float, int]:
    """Seconds of the forward and the backward pass, and peak bytes."""
    times = []
    for _ in range(repeats + 1):
        representation.zero_grad(set_to_none=True)
        times.append(forward_backward(representation, device))
    forward, backward = (statistics.median(column) for column in zip(*times[1:], strict=True))
    representation.zero_grad(set_to_none=True)
    return forward, backward, peak_bytes(representation, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name starts with this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device(arguments.device)
    print_header(["", *(f"{size}: forward, backward ms; peak MB" for size in arguments.sizes)])
    for name, build in CASES.items():
        if not name.startswith(arguments.only):
            continue
        cells = []
        for size in arguments.sizes:
            forward, backward, peak = measure(build(size, device), device, arguments.repeats)
            cells.append(f"{1e3 * forward:.0f}, {1e3 * backward:.0f}; {peak / 1e6:.0f}")
        print_row([name, *cells])


if __name__ == "__main__":
    main()
