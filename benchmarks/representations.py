"""Seconds and bytes of one render, forward and backward, of every 2D representation with its defaults at three sizes.

    python benchmarks/representations.py [--device cuda] [--sizes 64 128 256] [--repeats 5]

Seconds are the median over the repeats: on a CPU, seconds of processor time on one thread, which other work on the machine does not
lengthen; on a GPU, synchronised wall time. Bytes are what the autograd graph of one render keeps, and for the particle its
parameters. A model is not needed: latents are written as 4 x (size / 4) x (size / 4), as in the embedded one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch

from limbeck.diffusion.prior import Prior
from limbeck.priors.loading import pick_device
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Representation, RepresentationConfig
from limbeck.representations.coordinate_network import Fourier, Siren
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.representations.strokes import Strokes

SHOWN: dict[str, RepresentationConfig] = {
    "latents": Latents(), "pixels": Pixels(), "siren": Siren(), "siren, latent": Siren(space="latent"), "fourier": Fourier(),
    "gaussians, 1,000": Gaussians2D(), "gaussians, 5,000": Gaussians2D(count=5000), "strokes, 128": Strokes(),
    "strokes, 512": Strokes(count=512, width=0.03, length=0.1),
}  # fmt: skip


@dataclass
class Blank:
    """What a spec asks of a prior, and no model."""

    size: int
    device: str
    unit: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (4, self.size // 4, self.size // 4)

    @property
    def image_size(self) -> tuple[int, int]:
        return (self.size, self.size)


def clock(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def kept(made: Representation, view: torch.Tensor) -> int:
    """Bytes of the distinct storages that autograd keeps of one render, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in made.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        store = tensor.untyped_storage()
        if store.data_ptr() not in own:
            found[store.data_ptr()] = store.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        image = made.render(RenderRequest(view)).image
    del image
    return sum(found.values())


def measure(
    spec: RepresentationConfig, size: int, device: str, repeats: int
) -> tuple[float, float, int, int]:
    """Seconds forward, seconds backward, bytes kept, bytes of parameters."""
    prior: Prior = Blank(size, device)  # type: ignore[assignment]
    made, view = spec.build(prior, 1, 0), torch.arange(1)
    forward, backward = [], []
    for i in range(repeats + 1):
        start = clock(device)
        image = made.render(RenderRequest(view)).image
        middle = clock(device)
        image.square().sum().backward()
        if i:  # the first warms up
            forward.append(middle - start)
            backward.append(clock(device) - middle)
    parameters = sum(p.numel() * p.element_size() for p in made.parameters())
    return statistics.median(forward), statistics.median(backward), kept(made, view), parameters


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    arguments.add_argument("--repeats", type=int, default=5)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    device = pick_device(chosen.device)
    print(
        "| | "
        + " | ".join(f"{size}: forward, backward ms; kept MB" for size in chosen.sizes)
        + " | parameters |"
    )
    print("|---|" + "---|" * (len(chosen.sizes) + 1))
    for name, spec in SHOWN.items():
        cells, parameters = [], 0
        for size in chosen.sizes:
            f, b, bytes_kept, parameters = measure(spec, size, device, chosen.repeats)
            cells.append(f"{1000 * f:.1f}, {1000 * b:.1f}; {bytes_kept / 1e6:.1f}")
        print(
            f"| {name} | {' | '.join(cells)} | {parameters / 1e3:.0f} kB at {chosen.sizes[-1]} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
