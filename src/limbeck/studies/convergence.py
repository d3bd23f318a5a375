"""Does the result depend on how long and how fast one descends, or do all roads lead to one picture?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling
from limbeck.methods.sds import SDS
from limbeck.representations.latents import Latents
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class ConvergenceStudy(Study):
    """SDS over the number of steps and the learning rate, several seeds of one prompt beside each other.

    guidance: of SDS. lengths: steps of the runs. rates: peak learning rates of the runs.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particles: int = 6
    guidance: float = 7.5
    lengths: tuple[int, ...] = (100, 300, 1000)
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        return {
            f"{n} steps at {r:g}": self.distil(
                SDS(self.guidance), steps=n, representation=Latents(r)
            )
            for n in self.lengths
            for r in self.rates
        }
