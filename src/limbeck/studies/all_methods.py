"""What does every method make of the same prompt, the same start and the same steps?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.config.discovery import choices
from limbeck.diffusion.sampling import Sampling
from limbeck.methods.base import EditMethod, Method
from limbeck.methods.irfds import IRFDS
from limbeck.studies.base import Study
from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class AllMethodsStudy(Study):
    """Every method that makes pictures from text, with one guidance where it has one and its other options as they are.

    guidance: of all of them.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particles: int = 4
    guidance: float = 7.5

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        out: dict[str, Experiment | Sampling] = {
            f"sampling, s = {self.guidance:g}": self.sampling(self.guidance)
        }
        kinds: Mapping[str, Any] = choices(Method)
        for name, cls in kinds.items():
            if issubclass(cls, EditMethod | IRFDS):
                continue  # they begin with a picture
            guided = "guidance" in {f.name for f in dataclasses.fields(cls)}
            method: Any = cls(guidance=self.guidance) if guided else cls()
            out[name] = self.distil(method)
        return out
