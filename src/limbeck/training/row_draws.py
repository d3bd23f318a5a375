"""Which particles a step trains, and where its random numbers come from."""

from __future__ import annotations

import torch

from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment


def draw_rows(experiment: Experiment, step: int) -> RowRandom:
    """Draw the sorted particles of a step, each repeated ``cameras.per_particle`` times.

    Where a step has more rows than there are particles, as those of a generator may, the particles
    take equal turns, and which ones have a turn more is drawn.

    Args:
        experiment: the options of the run.
        step: current step, from 0.

    Returns:
        The rows, as the source of all randomness of the step.
    """
    e = experiment
    particles = torch.arange(e.total)
    if not e.draws_all:
        order = RowRandom.of_step(e.run_seed, step, particles).uniform("batch").argsort()
        particles = order[torch.arange(e.batch_size) % e.total].sort().values
    particles = particles.repeat_interleave(e.camera_sampler.per_particle)
    return RowRandom.of_step(e.run_seed, step, particles, e.camera_sampler.group_size)
