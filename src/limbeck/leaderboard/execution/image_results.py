"""The images of a cell and what they cost, kept in a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from limbeck.system.checkpoint import read_checkpoint, write_checkpoint


@dataclass(frozen=True)
class CellResult:
    """The images of a cell and what they cost.

    Attributes:
        images: images, sorted by prompt.
        steps: optimization or sampling steps of each image.
        passes: network passes per image.
        seconds: CPU time per image.
        diverged: prompts, by number, whose run was stopped by a value that is not finite; their
            images are gray.
    """

    images: UInt8[Tensor, "n 3 h w"]
    steps: int
    passes: float
    seconds: float
    diverged: tuple[int, ...]

    def save(self, path: Path, cell: Any) -> None:
        """Write the result; ``cell``, a dataclass, is kept with it."""
        metadata = {
            "step": self.steps,
            "passes": self.passes,
            "seconds": self.seconds,
            "diverged": self.diverged,
            "cell": asdict(cell),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, {"images": self.images}, metadata)

    @staticmethod
    def load(path: Path) -> CellResult:
        """Read a result."""
        tensors, found = read_checkpoint(path)
        diverged = tuple(found["diverged"])
        images, steps = tensors["images"], found["step"]
        return CellResult(images, steps, found["passes"], found["seconds"], diverged)


def to_bytes(images: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Images in [0, 1] as bytes, on the CPU."""
    return (images.cpu() * 255).round().clamp(0, 255).to(torch.uint8)
