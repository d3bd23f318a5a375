"""How long an interval, how fine an inversion, for ISM?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling
from limbeck.methods.ism import ISM
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class IntervalsStudy(Study):
    """ISM over its interval delta_t and the stride delta_s of its inversion.

    intervals: delta_t of the runs. strides: delta_s of the runs.
    """

    intervals: tuple[float, ...] = (0.02, 0.08, 0.2)
    strides: tuple[float, ...] = (0.1, 0.2, 0.4)

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        return {
            f"interval {d:g}, stride {s:g}": self.distil(ISM(delta_t=d, delta_t_first=d, delta_s=s))
            for d in self.intervals
            for s in self.strides
        }
