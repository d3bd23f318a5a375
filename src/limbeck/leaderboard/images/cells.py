"""Cells: some images of one method with one setting, computed once and kept in a file."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.leaderboard.execution.budget import affordable_steps, network_passes, passes_per_step
from limbeck.leaderboard.execution.cell_files import cell_path
from limbeck.leaderboard.execution.image_results import CellResult, to_bytes
from limbeck.leaderboard.execution.text_to_image import SAMPLING, TunedSetting, method_with
from limbeck.metrics.model_card import sample_captions
from limbeck.representations.latents import Latents
from limbeck.system.finite import NonFiniteError
from limbeck.training.experiment import Experiment
from limbeck.training.network_calls import count_network_calls
from limbeck.training.particle_images import particle_images
from limbeck.training.trainer import Run

_SAMPLING_STEPS = 50
_DECODED_ROWS = 64  #: images that are decoded together
_SEED_STEP = 2**20  #: between the seeds of the runs of a cell
SEEDS = 2**32  #: number of seeds that a run may have


@dataclass(frozen=True)
class Cell:
    """What to compute; everything that the images depend on.

    Attributes:
        name: name of the row: a method, or sampling.
        setting: guidance scale and learning rate.
        prompts: the prompts.
        images: images per prompt.
        steps: optimization or sampling steps.
        seed: seed of the run.
        precision: dtype of the model.
        code: SHA-256 of the file of a method of the user's own; empty for others.
    """

    name: str
    setting: TunedSetting
    prompts: tuple[str, ...]
    images: int
    steps: int
    seed: int
    precision: str
    code: str = ""

    @property
    def path(self) -> Path:
        """The file of its result, within the folder of a leaderboard."""
        return cell_path(self.name, asdict(self))


def compute_cell(cell: Cell, prior: Prior) -> CellResult:
    """Make the images of a cell.

    A run whose method trains a critic has one prompt, as a user's would: prompts that share a
    critic would share its training. All other methods treat particles separately, so that their
    prompts go through the network together.

    Args:
        cell: what to compute.
        prior: the model.
    """
    groups = [cell.prompts]
    if cell.name != SAMPLING and trains_critic(cell, prior):
        groups = [(prompt,) for prompt in cell.prompts]
    parts, diverged = [], []
    before, start = network_passes(prior), time.process_time()
    for i, group in enumerate(groups):
        images = _make_images(cell, group, prior)
        if images is None:
            diverged += [i] if len(groups) > 1 else list(range(len(group)))
            images = torch.full((len(group) * cell.images, 3, *prior.image_size), 0.5)
        parts.append(to_bytes(images))
    seconds = time.process_time() - start
    passes = network_passes(prior) - before
    count = len(cell.prompts) * cell.images
    return CellResult(
        torch.cat(parts), cell.steps, passes / count, seconds / count, tuple(diverged)
    )


def steps_within(passes: int, name: str, setting: TunedSetting, prior: Prior) -> int:
    """How many steps of a method have a number of passes, by those of a step at t = 0.6.

    Args:
        passes: network passes per image.
        name: the method, or sampling, which takes 50 steps if there are passes for them.
        setting: guidance scale and learning rate.
        prior: the model.

    Raises:
        ValueError: if not even one step has so few passes.
    """
    if name == SAMPLING:
        per_step = 1 if setting.guidance == 1 else 2
        return min(_SAMPLING_STEPS, affordable_steps(name, passes, per_step))
    calls = count_network_calls(method_with(name, setting), prior)
    return affordable_steps(name, passes, passes_per_step(name, calls))


def experiment_of(cell: Cell, prompts: tuple[str, ...]) -> Experiment:
    """The experiment behind some prompts of a cell.

    Runs of one cell have seeds of their own: with one seed, all prompts whose runs are separate
    would share their initial latents and noise.
    """
    first = cell.prompts.index(prompts[0])
    return Experiment(
        prompts,
        method=method_with(cell.name, cell.setting),
        representation=Latents(cell.setting.lr),
        particles=cell.images,
        steps=cell.steps,
        seed=(cell.seed + first * _SEED_STEP) % SEEDS,
        precision=cell.precision,  # type: ignore[arg-type]
    )


def trains_critic(cell: Cell, prior: Prior) -> bool:
    """Whether a method trains a critic, so that each prompt has a run of its own.

    Args:
        cell: a cell of the method.
        prior: the model.
    """
    run = Run(experiment_of(cell, cell.prompts[:1]), prior, pretrain=False)
    return run.experiment.method.critic_prior(prior, run.state) is not None


def _make_images(
    cell: Cell, prompts: tuple[str, ...], prior: Prior
) -> Float[Tensor, "n 3 h w"] | None:
    """Images of some prompts; None if the run was stopped by a value that is not finite."""
    if cell.name == SAMPLING:
        captions = [text for text in prompts for _ in range(cell.images)]
        return sample_captions(prior, captions, cell.steps, cell.setting.guidance or 1.0, cell.seed)
    run = Run(experiment_of(cell, prompts), prior)
    try:
        while run.step < cell.steps:
            run.advance()
    except NonFiniteError:
        return None
    return decoded_images(run)


def decoded_images(run: Run) -> Float[Tensor, "n 3 h w"]:
    """The decoded images of a run, in [0, 1]."""
    request = run.eval_request(1)
    with torch.no_grad():
        parts = torch.arange(len(request)).split(_DECODED_ROWS)
        return torch.cat([particle_images(run, request[rows]) for rows in parts])
