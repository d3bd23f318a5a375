"""What does guidance do to SDS?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling
from limbeck.methods.sds import SDS
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class GuidanceStudy(Study):
    """SDS over guidance, with plain samples above.

    scales: the guidance of each run.
    """

    scales: tuple[float, ...] = (7.5, 15.0, 30.0, 60.0, 120.0)

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        return {"sampling, s = 7.5": self.sampling(7.5)} | {
            f"SDS, s = {s:g}": self.distil(SDS(s)) for s in self.scales
        }
