"""What is the effect of the guidance scale on SDS?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling
from limbeck.methods.sds import SDS
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class GuidanceStudy(Study):
    """SDS over the guidance scale, with plain samples for comparison.

    Attributes:
        guidance_scales: guidance scale of each run.
    """

    guidance_scales: tuple[float, ...] = (7.5, 15.0, 30.0, 60.0, 120.0)

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        runs = {f"SDS, s = {s:g}": self.distill(SDS(s)) for s in self.guidance_scales}
        return {"sampling, s = 7.5": self.sampling(7.5), **runs}
