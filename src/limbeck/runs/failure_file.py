"""The file failure.safetensors: the inputs of the step that was not finite."""

from __future__ import annotations

from pathlib import Path

from limbeck.runs.folder_state import FAILED_STEP
from limbeck.system.checkpoint import write_checkpoint
from limbeck.system.finite import NonFiniteError
from limbeck.training.trainer import Run


def write_failure(folder: Path, error: NonFiniteError) -> str:
    """Write the inputs of a step that was not finite.

    Args:
        folder: run folder.
        error: the error of the step.

    Returns:
        Where they are.
    """
    path = folder / FAILED_STEP
    write_checkpoint(path, error.inputs, {"step": error.step, "cause": error.cause})
    return f"the inputs of step {error.step} are in {path}"


def non_finite_step(run: Run) -> NonFiniteError | None:
    """Take one more step of a run, and return its error if a value of it is not finite."""
    try:
        run.advance()
        run.monitor.raise_if_bad()
    except NonFiniteError as error:
        return error
    return None
