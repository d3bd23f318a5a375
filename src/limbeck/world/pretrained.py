"""The embedded world: a procedural 3D world of captioned pictures, a small diffusion model of it, and an evaluator that can
tell."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.world.evaluator import Evaluator

WEIGHTS = Path(__file__).parent / "weights"  #: the shipped pipeline, and the evaluator beside it


def load_evaluator(folder: Path = WEIGHTS) -> Evaluator:
    """The shipped evaluator on the CPU; FileNotFoundError where ``folder`` has none."""
    from safetensors.torch import load_file

    from limbeck.world.evaluator import Evaluator

    path = folder / "evaluator.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no evaluator: {path} is missing; `limbeck train-world` makes one")
    net = Evaluator()
    net.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return net.eval().requires_grad_(False)


@cache
def evaluator_on(device: str) -> Evaluator:
    """The shipped evaluator on a device, read once."""
    return load_evaluator().to(device)
