"""Weights of the embedded world that ship with the package."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.world.evaluator import Evaluator

WEIGHTS = Path(__file__).parent / "weights"  #: The shipped pipeline, with the evaluator.


def load_evaluator(folder: Path = WEIGHTS) -> Evaluator:
    """Load an evaluator onto the CPU.

    Args:
        folder: pipeline folder that holds ``evaluator.safetensors``; by default the shipped one.

    Raises:
        FileNotFoundError: if the folder has no evaluator.
    """
    from safetensors.torch import load_file

    from limbeck.world.evaluator import Evaluator

    path = folder / "evaluator.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"no evaluator: {path} is missing; `limbeck train-world` trains one"
        )
    evaluator = Evaluator()
    weights = load_file(path)
    evaluator.load_state_dict({k: v.float() for k, v in weights.items()})
    return evaluator.eval().requires_grad_(False)


@cache
def shared_evaluator(device: str) -> Evaluator:
    """Return the shipped evaluator on a device, loaded once per process."""
    return load_evaluator().to(device)
