"""Cells of a leaderboard on an exact prior: one run each, measured and kept in a file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.sampling import sample_x0
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.leaderboard.execution.budget import affordable_steps, network_passes, passes_per_step
from limbeck.leaderboard.execution.cell_files import cell_path
from limbeck.leaderboard.execution.text_to_image import SAMPLING, TunedSetting, method_with
from limbeck.metrics.mixture_modes import covered_modes, mode_spread
from limbeck.metrics.true_law import ExactPrior, draw_from_law, law_metrics, log_p, mode_weights
from limbeck.priors.exact import GaussianMixture
from limbeck.representations.latents import Latents
from limbeck.system.checkpoint import read_checkpoint, write_checkpoint
from limbeck.system.finite import NonFiniteError
from limbeck.system.random import RunSeed
from limbeck.training.experiment import Experiment
from limbeck.training.network_calls import count_network_calls
from limbeck.training.trainer import Run
from limbeck.training.warm_start import build_representation

TRUE_DRAWS = "true draws"  #: name of the row of independent draws from the law
NO_STEP = "no step"  #: name of the row of the particles that every run starts from
#: Seeds of these draws are so much larger than those of the reference; generators take 32 bits.
_DRAW_SEEDS = 3_000_000_019


@dataclass(frozen=True)
class ExactCell:
    """What to compute; everything that the particles depend on.

    Attributes:
        name: name of the row: a method, sampling, true draws, or no step.
        setting: guidance scale and learning rate.
        prompt: the prompt.
        particles: particles of the run.
        steps: optimization or sampling steps.
        seed: seed of the run.
        keeps_particles: whether the particles are in the file, or their metrics only.
        code: SHA-256 of the file of a method of the user's own; empty for others.
    """

    name: str
    setting: TunedSetting
    prompt: str
    particles: int
    steps: int
    seed: int
    keeps_particles: bool
    code: str = ""

    @property
    def path(self) -> Path:
        """The file of its result, within the folder of a leaderboard."""
        return cell_path(self.name, asdict(self))


@dataclass(frozen=True)
class ExactResult:
    """What a run has come to.

    Attributes:
        particles: the particles; empty if they are not kept.
        values: metrics by name.
        steps: optimization or sampling steps.
        passes: network passes per particle.
        seconds: CPU time of the run.
        diverged: whether the run was stopped by a value that is not finite; its particles are those
            before that step.
    """

    particles: Float[Tensor, "n ..."]
    values: Mapping[str, float]
    steps: int
    passes: float
    seconds: float
    diverged: bool

    def save(self, path: Path, cell: ExactCell) -> None:
        """Write the result.

        Args:
            path: the file.
            cell: what it is the result of, kept with it.
        """
        metadata = {
            "step": self.steps,
            "passes": self.passes,
            "seconds": self.seconds,
            "diverged": self.diverged,
            "values": dict(self.values),
            "cell": asdict(cell),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, {"particles": self.particles}, metadata)

    @staticmethod
    def load(path: Path) -> ExactResult:
        """Read a result."""
        tensors, found = read_checkpoint(path)
        steps, passes, seconds = found["step"], found["passes"], found["seconds"]
        return ExactResult(
            tensors["particles"], found["values"], steps, passes, seconds, found["diverged"]
        )


def compute_exact(cell: ExactCell, prior: ExactPrior) -> ExactResult:
    """Make and measure the particles of a cell.

    Args:
        cell: what to compute.
        prior: the exact prior.
    """
    before, start = network_passes(prior), time.process_time()
    particles, diverged = _make_particles(cell, prior)
    seconds = time.process_time() - start
    passes = (network_passes(prior) - before) / cell.particles
    values = measure_particles(particles, prior, cell.prompt, cell.seed)
    kept = particles if cell.keeps_particles else particles[:0]
    return ExactResult(kept, values, cell.steps, passes, seconds, diverged)


@torch.no_grad()
def measure_particles(
    particles: Float[Tensor, "n ..."], prior: ExactPrior, prompt: str, seed: int
) -> dict[str, float]:
    """Metrics of particles against the law of their prompt.

    Args:
        particles: the particles, in x0 space.
        prior: the exact prior.
        prompt: the prompt.
        seed: seed of the true samples that they are compared with.

    Returns:
        Those of ``law_metrics``; of a mixture whose components have a density also ``modes``,
        ``spread`` and ``log_p``.
    """
    points = particles.flatten(1).double().cpu()
    values = law_metrics(points, prior, prompt, seed)
    if isinstance(prior, GaussianMixture):
        densities = log_p(points, prior, prompt)
        if densities is not None:
            means, stds = prior.means.flatten(1).cpu(), prior.stds.cpu()
            weights = mode_weights(prior, prompt)
            values["modes"] = float(covered_modes(points, means, stds, weights))
            values["spread"] = mode_spread(points, means, stds)
            values["log_p"] = densities.mean().item()
    return values


def exact_steps_within(
    passes: int, name: str, setting: TunedSetting, prior: ExactPrior, prompt: str
) -> int:
    """How many steps of a row have a number of passes, by those of a step at t = 0.6.

    Args:
        passes: network passes per particle.
        name: the method, or sampling.
        setting: guidance scale and learning rate.
        prior: the exact prior.
        prompt: the prompt.

    Raises:
        ValueError: if not even one step has so few passes.
    """
    if name == SAMPLING:
        return affordable_steps(name, passes, 1 if setting.guidance == 1 else 2)
    calls = count_network_calls(method_with(name, setting), prior, prompt, source="")
    return affordable_steps(name, passes, passes_per_step(name, calls))


def exact_experiment(cell: ExactCell) -> Experiment:
    """The run of a cell.

    Args:
        cell: a cell of a method.
    """
    return Experiment(
        (cell.prompt,),
        method=method_with(cell.name, cell.setting),
        representation=Latents(cell.setting.lr),
        particles=cell.particles,
        steps=cell.steps,
        seed=cell.seed,
    )


def _make_particles(cell: ExactCell, prior: ExactPrior) -> tuple[Float[Tensor, "n ..."], bool]:
    """Particles, and whether the run was stopped by a value that is not finite."""
    if cell.name == TRUE_DRAWS:
        rng = torch.Generator().manual_seed((_DRAW_SEEDS + cell.seed) % 2**32)
        draws = draw_from_law(prior, cell.prompt, cell.particles, rng)
        return draws.float().unflatten(1, prior.shape), False
    if cell.name == NO_STEP:
        return _initial_particles(cell, prior), False
    if cell.name == SAMPLING:
        return _sample(cell, prior), False
    run, diverged = Run(exact_experiment(cell), prior), False
    try:
        while run.step < cell.steps:
            run.advance()
    except NonFiniteError:
        diverged = True
    with torch.no_grad():
        return run.representation.render(run.eval_request(1)).image.detach().clone(), diverged


def _sample(cell: ExactCell, prior: ExactPrior) -> Float[Tensor, "n ..."]:
    texts = [cell.prompt] * cell.particles
    conditions = Conditions(prior.condition(texts), prior.condition([""] * cell.particles))
    noise = _initial_particles(cell, prior)
    return sample_x0(prior, conditions, noise, cell.steps, cell.setting.guidance or 1.0)


@torch.no_grad()
def _initial_particles(cell: ExactCell, prior: ExactPrior) -> Float[Tensor, "n ..."]:
    """The particles that all runs of a seed start from, standard normal noise."""
    seed = RunSeed(cell.seed, cell.particles)
    particles = build_representation(Latents(), prior, cell.particles, seed)
    request = RenderRequest(torch.arange(cell.particles))
    return particles.render(request).image.clone()
