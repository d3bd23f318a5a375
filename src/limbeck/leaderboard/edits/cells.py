"""Cells of a leaderboard of edits: some edits by one method with one setting, kept in a file."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.weights import UniformWeight
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.leaderboard.edits.protocol import (
    INVERSION,
    OTHER_TIMESTEPS,
    SAMPLING_STEPS,
    EditSetting,
    edit_options,
    other_method,
    row_options,
)
from limbeck.leaderboard.execution.budget import affordable_steps, network_passes, passes_per_step
from limbeck.leaderboard.execution.cell_files import cell_path
from limbeck.leaderboard.execution.image_results import CellResult, to_bytes
from limbeck.methods.base import Method
from limbeck.methods.sdedit import SDEdit
from limbeck.representations.latents import Latents
from limbeck.representations.noise import NoiseMap
from limbeck.runs.edit_inputs import EditInputs
from limbeck.runs.editing import edit_experiments
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.network_calls import count_network_calls
from limbeck.training.optimizers import SGD, Adam
from limbeck.training.particle_images import particle_images
from limbeck.training.trainer import Run

_DECODED_ROWS = 64  #: images that are decoded together


@dataclass(frozen=True)
class EditCell:
    """What to compute; everything that the edited images depend on.

    Attributes:
        name: name of the row.
        setting: guidance scale and strength.
        part: folder of the source images: ``pairs`` or ``tuning-pairs``.
        first: number of the first pair.
        sources: prompts of the source images.
        targets: prompts of the edited images.
        passes: network passes per edit.
        seed: seed of the run.
        precision: dtype of the model.
        code: SHA-256 of the file of a method of the user's own; empty for others.
    """

    name: str
    setting: EditSetting
    part: str
    first: int
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    passes: int
    seed: int
    precision: str
    code: str = ""

    @property
    def path(self) -> Path:
        """The file of its result, within the folder of a leaderboard."""
        return cell_path(self.name, asdict(self))

    def source_files(self, folder: Path) -> tuple[Path, ...]:
        """Files of the source images.

        Args:
            folder: folder of the leaderboard.
        """
        rows = range(self.first, self.first + len(self.sources))
        return tuple(folder / self.part / f"{row:03d}-source.png" for row in rows)


def compute_edits(cell: EditCell, prior: Prior, folder: Path) -> CellResult:
    """Edit the images of a cell.

    Args:
        cell: what to compute.
        prior: the model.
        folder: folder of the leaderboard, which holds the source images.
    """
    files = cell.source_files(folder)
    count = len(files)
    experiment = _experiment(cell, files, prior)
    before, start = network_passes(prior), time.process_time()
    diverged: tuple[int, ...] = ()
    try:
        images = _edit(cell, experiment, prior)
    except NonFiniteError:
        diverged = tuple(range(len(files)))
        images = torch.full((count, 3, *prior.image_size), 0.5)
    seconds = time.process_time() - start
    passes = network_passes(prior) - before
    return CellResult(to_bytes(images), experiment.steps, passes / count, seconds / count, diverged)


def _edit(cell: EditCell, experiment: Experiment, prior: Prior) -> Float[Tensor, "n 3 h w"]:
    run = Run(experiment, prior)
    while run.step < experiment.steps:
        run.advance()
    images = []
    with torch.no_grad():
        for rows in torch.arange(experiment.total).split(_DECODED_ROWS):
            request = RenderRequest(rows)
            images.append(particle_images(run, request))
    return torch.cat(images).float()


def _experiment(cell: EditCell, files: tuple[Path, ...], prior: Prior) -> Experiment:
    if edit_options(cell.name) is None:
        return _other_experiment(cell, files, prior)
    options = row_options(cell.name, cell.setting)
    if isinstance(options.method, SDEdit):
        per_step = 1 if cell.setting.guidance == 1 else 2
        steps = affordable_steps(cell.name, cell.passes, per_step)
        options = replace(options, method=replace(options.method, denoise_steps=steps))
    else:
        options = replace(options, steps=_num_steps(cell, options.method, cell.passes, prior))
    options = replace(
        options,
        seed=cell.seed,
        precision=cell.precision,  # type: ignore[arg-type]
    )
    inputs = EditInputs(files, cell.targets, cell.sources)
    (experiment,) = edit_experiments(inputs, options, prior).values()
    return experiment


def _other_experiment(cell: EditCell, files: tuple[Path, ...], prior: Prior) -> Experiment:
    """The run of bridge, or that of irfds, which leaves passes for its samples."""
    method, passes = other_method(cell.name, cell.setting), cell.passes
    representation: Latents | NoiseMap = Latents(cell.setting.strength, images=files)
    if cell.name == INVERSION:
        representation = NoiseMap(cell.setting.strength, images=files)
        passes -= SAMPLING_STEPS * (1 if cell.setting.guidance == 1 else 2)
    return Experiment(
        cell.targets,
        source_prompt=cell.sources,
        method=method,
        representation=representation,
        timesteps=OTHER_TIMESTEPS[cell.name],
        weight=UniformWeight(),
        optimizer=Adam() if cell.name == INVERSION else SGD(),
        steps=_num_steps(cell, method, passes, prior),
        seed=cell.seed,
        precision=cell.precision,  # type: ignore[arg-type]
    )


def _num_steps(cell: EditCell, method: Method, passes: int, prior: Prior) -> int:
    """As many steps as have these passes, by those of a step at t = 0.6."""
    per_step = passes_per_step(cell.name, count_network_calls(method, prior))
    return affordable_steps(cell.name, passes, per_step)
