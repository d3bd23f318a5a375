"""How do all methods compare on the same prompt, initialization and number of steps?"""

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
    """Every text-to-image method with its own defaults, at one guidance scale.

    Attributes:
        guidance: guidance scale of all methods that have one, and of the samples.
    """

    prompts: tuple[str, ...] = ("a yellow duck on grass",)
    particles: int = 4
    guidance: float = 7.5

    def rows(self) -> Mapping[str, Experiment | Sampling]:
        rows: dict[str, Experiment | Sampling] = {
            f"sampling, s = {self.guidance:g}": self.sampling(self.guidance)
        }
        methods: Mapping[str, Any] = choices(Method)
        for name, method in methods.items():
            if issubclass(method, EditMethod | IRFDS):
                continue  # these start from an image
            has_guidance = "guidance" in {f.name for f in dataclasses.fields(method)}
            rows[name] = self.distill(method(guidance=self.guidance) if has_guidance else method())
        return rows
