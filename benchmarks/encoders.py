"""Time and memory of the encodings of a NeRF, forward and backward, at points along rays.

    python benchmarks/encoders.py [--device cuda] [--points 65536] [--repeats 9]

Each encoding has the decoder it is meant for. All of them take turns, so that other work on the
machine affects all. Times are medians over the repeats: CPU time of one thread on a CPU,
synchronized wall time on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from measuring import clock, print_header, print_row, saved_bytes
from torch import Tensor, nn

from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.graphics.fields.decoders import Decoder, IdentityDecoder, MLPDecoder, ResidualDecoder
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.frequency import FrequencyEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.fields.encodings.triplane import TriplaneEncoding
from limbeck.priors.loading import pick_device

CASES: dict[str, tuple[Encoding, Decoder]] = {
    "dense grid 16 32 64, x 4 sum; identity": (DenseGridEncoding(), IdentityDecoder()),
    "dense grid 16 32 64, x 4 concat; MLP": (
        DenseGridEncoding(level_reduce="concat"),
        MLPDecoder(),
    ),
    "dense grid 64, x 8; MLP": (
        DenseGridEncoding(resolutions=(64,), features_per_level=8),
        MLPDecoder(),
    ),
    "triplane 32 64 128, x 8 concat, product; MLP": (TriplaneEncoding(), MLPDecoder()),
    "triplane 128, x 4 sum; identity": (
        TriplaneEncoding(
            resolutions=(128,), features_per_level=4, plane_reduce="sum", level_reduce="sum"
        ),
        IdentityDecoder(),
    ),
    "hash grid 8 x 2, 2^15, to 256; MLP": (
        HashGridEncoding(num_levels=8, log2_hashmap_size=15, max_resolution=256),
        MLPDecoder(),
    ),
    "hash grid 16 x 2, 2^19, to 2048; MLP": (HashGridEncoding(), MLPDecoder()),
    "frequency 8; residual 5 x 128": (FrequencyEncoding(), ResidualDecoder()),
}


@dataclass
class Timing:
    """An encoding with its decoder, and the seconds of its passes.

    Attributes:
        model: encoding and decoder.
        forward: seconds of each forward pass.
        backward: seconds of each backward pass.
    """

    model: nn.ModuleList
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    def decode(self, points: Float[Tensor, "n 3"]) -> Tensor:
        """Output of the decoder at points."""
        encoding, decoder = self.model
        return decoder(encoding(points, 1.0))

    def run(self, points: Float[Tensor, "n 3"], record: bool) -> None:
        """Time one forward and backward pass."""
        device = points.device.type
        start = clock(device)
        values = self.decode(points)
        middle = clock(device)
        values.square().sum().backward()
        end = clock(device)
        self.model.zero_grad(set_to_none=True)
        if record:
            self.forward.append(middle - start)
            self.backward.append(end - middle)

    @property
    def medians(self) -> tuple[float, float]:
        """Median seconds of forward and backward pass."""
        return statistics.median(self.forward), statistics.median(self.backward)

    @property
    def num_parameters(self) -> int:
        """Number of parameters of encoding and decoder."""
        return sum(p.numel() for p in self.model.parameters())


def points_along_rays(count: int, samples: int = 64) -> Float[Tensor, "n 3"]:
    """Points along the rays of four cameras, in the order of volume rendering.

    Args:
        count: about so many points.
        samples: points per ray.
    """
    size = max(2, round((count / samples / 4) ** 0.5))
    camera = orbit_cameras(torch.arange(4) * (torch.pi / 2), torch.full((4,), 0.3), 3.6, 30)
    depth = torch.linspace(2.6, 4.6, samples)[:, None]
    rays = camera.directions(size, size)[:, :, :, None]
    return (camera.eye[:, None, None, None] + rays * depth).reshape(-1, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--points", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device(arguments.device)
    rng = torch.Generator().manual_seed(0)
    points = points_along_rays(arguments.points).to(device)
    timings = {}
    for name, (encoding, decoder) in CASES.items():
        built = encoding.build(rng)
        model = nn.ModuleList([built, decoder.build(built.num_features, rng)])
        timings[name] = Timing(model.to(device))
    for turn in range(arguments.repeats + 1):
        for timing in timings.values():
            timing.run(points, record=turn > 0)  # the first turn warms up
    first = sum(next(iter(timings.values())).medians)
    title = f"{len(points):,} points"
    print_header([title, "forward, backward ms", "relative to the first", "saved MB", "parameters"])
    for name, timing in timings.items():
        forward, backward = timing.medians
        saved = saved_bytes(partial(timing.decode, points), timing.model.parameters())
        print_row(
            [
                name,
                f"{1000 * forward:.0f}, {1000 * backward:.0f}",
                f"{(forward + backward) / first:.1f}",
                f"{saved / 1e6:.0f}",
                f"{timing.num_parameters:,}",
            ]
        )


if __name__ == "__main__":
    main()
