"""Time and memory of a render of every 2D representation, forward and backward, at three sizes.

    python benchmarks/representations.py [--device cuda] [--sizes 64 128 256] [--repeats 5]

Times are medians over the repeats: CPU time of one thread on a CPU, synchronized wall time
on a GPU. Memory is what autograd saves for the backward pass of one render, and the parameters of
a particle. No model is needed: latents have 4 channels at a quarter of the size, as in the
embedded one.
"""

from __future__ import annotations

import argparse
import statistics
from typing import NamedTuple

import torch
from measuring import BlankPrior, clock, print_header, print_row, saved_bytes
from torch import Tensor

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.priors.loading import pick_device
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.coordinate_network import Fourier, Siren
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.representations.strokes import Strokes

CASES: dict[str, RepresentationConfig] = {
    "latents": Latents(),
    "pixels": Pixels(),
    "siren": Siren(),
    "siren, latent": Siren(space="latent"),
    "fourier": Fourier(),
    "gaussians, 1,000": Gaussians2D(),
    "gaussians, 5,000": Gaussians2D(num_gaussians=5000),
    "strokes, 128": Strokes(),
    "strokes, 512": Strokes(num_strokes=512, init_width=0.03, init_length=0.1),
}


class Cost(NamedTuple):
    """Seconds of forward and backward pass, bytes saved by autograd, bytes of parameters."""

    forward: float
    backward: float
    saved: int
    parameters: int


def measure(config: RepresentationConfig, size: int, device: str, repeats: int) -> Cost:
    """Measure one render of one particle."""
    particle = config.build(BlankPrior(size, device), 1, 0)  # type: ignore[arg-type]
    request = RenderRequest(torch.arange(1))

    def render() -> Tensor:
        return particle.render(request).image

    forward, backward = [], []
    for i in range(repeats + 1):
        start = clock(device)
        image = render()
        middle = clock(device)
        image.square().sum().backward()
        if i:  # the first warms up
            forward.append(middle - start)
            backward.append(clock(device) - middle)
    parameters = sum(p.numel() * p.element_size() for p in particle.parameters())
    saved = saved_bytes(render, particle.parameters())
    return Cost(statistics.median(forward), statistics.median(backward), saved, parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device(arguments.device)
    columns = [f"{size}: forward, backward ms; saved MB" for size in arguments.sizes]
    print_header(["", *columns, f"parameters at {arguments.sizes[-1]}"])
    for name, config in CASES.items():
        costs = [measure(config, size, device, arguments.repeats) for size in arguments.sizes]
        cells = [
            f"{1000 * cost.forward:.1f}, {1000 * cost.backward:.1f}; {cost.saved / 1e6:.1f}"
            for cost in costs
        ]
        print_row([name, *cells, f"{costs[-1].parameters / 1e3:.0f} kB"])


if __name__ == "__main__":
    main()
