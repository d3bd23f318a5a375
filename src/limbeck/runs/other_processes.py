"""A process of a launched run that only computes: process 0 writes the folder."""

from __future__ import annotations

from pathlib import Path

from limbeck.diffusion.prior import Prior
from limbeck.system.checkpoint import read_checkpoint
from limbeck.system.files import one_line
from limbeck.system.finite import NonFiniteError
from limbeck.system.interrupt import DeferredInterrupt, Stopped
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


def take_part(experiment: Experiment, prior: Prior, folder: Path) -> None:
    """Take the steps of a run that process 0 records, from the same checkpoint.

    Args:
        experiment: what is run.
        prior: its model.
        folder: run folder, which is only read.
    """
    path = folder / "checkpoint.safetensors"
    run = Run(experiment, prior, pretrain=not path.exists())
    if path.exists():
        tensors, metadata = read_checkpoint(path)
        run.load(tensors, metadata["step"])
    # process 0 decides when to stop, between steps, and this one then has no partner
    with DeferredInterrupt() as interrupt:
        try:
            while run.step < experiment.steps:
                run.advance()
        except NonFiniteError:
            raise  # every process has it
        except RuntimeError as error:
            if interrupt.requested:
                raise Stopped(interrupt.requested) from None
            raise ConnectionError(
                f"a process of this run has stopped, see its message ({one_line(error, 120)})"
            ) from error
