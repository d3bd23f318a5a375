"""How do the interval and the inversion stride affect ISM?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling
from limbeck.methods.ism import ISM
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class IntervalsStudy(Study):
    """ISM over the interval delta_t and the stride delta_s of its inversion.

    Attributes:
        intervals: values of delta_t.
        strides: values of delta_s.
    """

    intervals: tuple[float, ...] = (0.02, 0.08, 0.2)
    strides: tuple[float, ...] = (0.1, 0.2, 0.4)

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        return {
            f"interval {d:g}, stride {s:g}": self.distill(
                ISM(delta_t=d, delta_t_start=d, delta_s=s)
            )
            for d in self.intervals
            for s in self.strides
        }
