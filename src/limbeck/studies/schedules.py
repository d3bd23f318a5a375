"""Method or schedule: which of the two makes the picture?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.diffusion.sampling import Sampling
from limbeck.distillation.timesteps.dreamtime import DreamTimeTimesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.methods.base import Method
from limbeck.methods.ism import ISM
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class SchedulesStudy(Study):
    """SDS, VSD and ISM, each under DreamFusion's uniform times and under DreamTime's.

    guidance: of all of them.
    """

    guidance: float = 7.5

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        methods: dict[str, Method] = {
            "SDS": SDS(self.guidance),
            "VSD": VSD(self.guidance),
            "ISM": ISM(self.guidance),
        }
        times = {"DreamFusion": UniformTimesteps(), "DreamTime": DreamTimeTimesteps()}
        return {
            f"{m}, {t}": self.distil(method, timesteps=how)
            for m, method in methods.items()
            for t, how in times.items()
        }
