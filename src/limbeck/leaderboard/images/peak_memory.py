"""Peak memory of a method beyond the loaded model, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.sampling import sample_x0
from limbeck.leaderboard.execution.text_to_image import SAMPLING
from limbeck.leaderboard.execution.workers import load_prior, worker_pool
from limbeck.leaderboard.images.cells import experiment_of
from limbeck.leaderboard.images.measurement import Measurement
from limbeck.system.memory_peak import can_measure_peak, peak_growth
from limbeck.training.trainer import Run

_IMAGES, _STEPS = 2, 4


@dataclass(frozen=True)
class PeakMemory(Measurement):
    """Peak memory of a few steps of two images of one prompt, setup and critic included.

    The run is repeated in a fresh process, and the second one measured: the first has made the
    library load its kernels, of which every method needs about as many.
    """

    kind: ClassVar[str] = "memory"

    @property
    def image_steps(self) -> int:
        return 0  # what takes seconds is the start of the process

    def measure(self) -> dict[str, Any]:
        """``mib``: MiB; None where the system cannot tell."""
        if not can_measure_peak():
            return {"mib": None}
        with worker_pool(1) as pool:
            return {"mib": pool.submit(_mib_of_second_run, self).result()}

    def run(self) -> None:
        """A few steps of the row."""
        prior, prompt = load_prior(self.precision), self.prompts[:1]
        if self.name != SAMPLING:
            run = Run(experiment_of(self.cell(prompt, _IMAGES), prompt), prior)
            for _ in range(min(_STEPS, self.steps)):
                run.advance()
            return
        texts = [*prompt] * _IMAGES
        conditions = Conditions(prior.condition(texts), prior.condition([""] * _IMAGES))
        noise = torch.randn(_IMAGES, *prior.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            sample_x0(prior, conditions, noise, _STEPS, self.setting.guidance or 1.0)


def _mib_of_second_run(measurement: PeakMemory) -> float:
    measurement.run()
    return peak_growth(measurement.run) / 2**20
