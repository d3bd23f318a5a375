"""Is the result determined by the method or by the timestep schedule?"""

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
    """SDS, VSD and ISM, each with the uniform times of DreamFusion and the times of DreamTime.

    Attributes:
        guidance: guidance scale of all methods.
    """

    guidance: float = 7.5

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        s = self.guidance
        methods: dict[str, Method] = {"SDS": SDS(s), "VSD": VSD(s), "ISM": ISM(s)}
        schedules = {"DreamFusion": UniformTimesteps(), "DreamTime": DreamTimeTimesteps()}
        return {
            f"{name}, {schedule}": self.distill(method, timesteps=timesteps)
            for name, method in methods.items()
            for schedule, timesteps in schedules.items()
        }
