"""Milliseconds and bytes of the encodings of a field, forward and backward, at points along rays; in units of the grid too.

    python benchmarks/encoders.py [--device cuda] [--points 65536] [--repeats 9]

Each with the decoder it is meant for. All rows take turns, so that other work on the machine falls on all of them alike. Medians
over the repeats: on a CPU of processor time on one thread, on a GPU of synchronised wall time. Kept: what autograd holds meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.graphics.fields.decoders import Decoder, IdentityDecoder, MLPDecoder, ResidualDecoder
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.frequency import FrequencyEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.fields.encodings.triplane import TriplaneEncoding
from limbeck.priors.loading import pick_device

SHOWN: dict[str, tuple[Encoding, Decoder]] = {
    "grid 16 32 64, x 4 summed": (DenseGridEncoding(), IdentityDecoder()),
    "the same, joined; small": (DenseGridEncoding(levels_are="joined"), MLPDecoder()),
    "grid 64, x 8; small": (DenseGridEncoding(levels=(64,), features=8), MLPDecoder()),
    "planes 32 64 128, x 8 joined, multiplied; small": (TriplaneEncoding(), MLPDecoder()),
    "planes 128, x 4, summed": (
        TriplaneEncoding(levels=(128,), features=4, planes_are="summed", levels_are="summed"),
        IdentityDecoder(),
    ),
    "hashed 8 x 2, 2^15, to 256; small": (
        HashGridEncoding(levels=8, log2_rows=15, finest=256),
        MLPDecoder(),
    ),
    "hashed 16 x 2, 2^19, to 2048; small": (HashGridEncoding(), MLPDecoder()),
    "frequencies 8; residual 5 x 128": (FrequencyEncoding(), ResidualDecoder()),
}


@dataclass
class Row:
    """An encoding and what follows it, and the seconds they took."""

    encoded: nn.Module
    decoder: nn.Module
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    def once(self, points: Float[Tensor, "n 3"], timed: bool) -> None:
        device = points.device.type
        start = clock(device)
        meant = self.decoder(self.encoded(points, 1.0))
        middle = clock(device)
        meant.square().sum().backward()
        end = clock(device)
        for part in (self.encoded, self.decoder):
            part.zero_grad(set_to_none=True)
        if timed:
            self.forward.append(middle - start)
            self.backward.append(end - middle)

    @property
    def took(self) -> tuple[float, float]:
        return statistics.median(self.forward), statistics.median(self.backward)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for part in (self.encoded, self.decoder) for p in part.parameters())

    def kept(self, points: Float[Tensor, "n 3"]) -> int:
        """Bytes of the distinct storages that autograd keeps, parameters not counted."""
        own = {
            p.untyped_storage().data_ptr()
            for part in (self.encoded, self.decoder)
            for p in part.parameters()
        }
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            store = tensor.untyped_storage()
            if store.data_ptr() not in own:
                found[store.data_ptr()] = store.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            meant = self.decoder(self.encoded(points, 1.0))
        del meant
        return sum(found.values())


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def along_rays(count: int, samples: int = 64) -> Float[Tensor, "n 3"]:
    """Points of the box along the rays of four cameras, in the order in which a field asks for them."""
    side = max(2, round((count / samples / 4) ** 0.5))
    camera = orbit_cameras(torch.arange(4) * (torch.pi / 2), torch.full((4,), 0.3), 3.6, 30)
    depth = torch.linspace(2.6, 4.6, samples)[:, None]
    points = camera.eye[:, None, None, None] + camera.directions(side, side)[:, :, :, None] * depth
    return points.reshape(-1, 3)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--points", type=int, default=65_536)
    arguments.add_argument("--repeats", type=int, default=9)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    device = pick_device(chosen.device)
    rng, points = torch.Generator().manual_seed(0), along_rays(chosen.points).to(device)
    rows = {}
    for name, (encoding, decoder) in SHOWN.items():
        encoded = encoding.build(rng).to(device)
        rows[name] = Row(encoded, decoder.build(encoded.width, rng).to(device))
    for i in range(chosen.repeats + 1):
        for row in rows.values():
            row.once(points, timed=i > 0)  # the first warms up
    grid = sum(next(iter(rows.values())).took)
    print(
        f"| {len(points):,} points | forward, backward ms | both, in grids | kept MB | parameters |\n|---|---|---|---|---|"
    )
    for name, row in rows.items():
        f, b = row.took
        cost = (
            f"{1000 * f:.0f}, {1000 * b:.0f} | {(f + b) / grid:.1f} | {row.kept(points) / 1e6:.0f}"
        )
        print(f"| {name} | {cost} | {row.parameters:,} |")


if __name__ == "__main__":
    main()
