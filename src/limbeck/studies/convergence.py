"""Does the result depend on the number of steps and the learning rate?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from limbeck.diffusion.sampling import Sampling
from limbeck.methods.sds import SDS
from limbeck.representations.latents import Latents
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class ConvergenceStudy(Study):
    """SDS over the number of steps and the learning rate, with several seeds of one prompt.

    Attributes:
        guidance: guidance scale of SDS.
        step_counts: numbers of steps.
        lrs: peak learning rates.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particles: int = 6
    guidance: float = 7.5
    step_counts: tuple[int, ...] = (100, 300, 1000)
    lrs: tuple[float, ...] = (0.01, 0.03, 0.1)
    steps: int = field(default=1000, init=False)  # see step_counts
    lr: float = field(default=0.1, init=False)  # see lrs

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        sds = SDS(self.guidance)
        return {
            f"{n} steps at {lr:g}": self.distill(sds, steps=n, representation=Latents(lr))
            for n in self.step_counts
            for lr in self.lrs
        }
