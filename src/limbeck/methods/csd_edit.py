"""CSD-Edit, collaborative score distillation of edits: Kim et al. 2023 (arXiv 2307.04787)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.batching import apply_per_prompt
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.kernels import PromptGroups, stein_direction
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod
from limbeck.methods.svgd import SVGD


class TargetGroups(PromptGroups):
    """State of an edit whose images of the same target prompt interact, each with its own source.

    Args:
        setup: context of the run.
    """

    def __init__(self, setup: SetupContext):
        super().__init__(setup)
        firsts = [setup.prompts.index(text) for text in setup.prompts]
        first = torch.tensor(firsts or list(range(setup.num_prompts)))

        def group(particle: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
            return first[setup.prompt_index(particle)]

        self._prompt_index = group


_SHARED = {"name": "uniform", "per_row": False}  #: one time for all images
#: Options of the authors' code.
_CODE = {
    "steps": 200,
    "lr": 2.0,
    "weight": "dreamfusion",
    "timesteps": _SHARED | {"t_min": 0.02, "t_max": 0.5},
    "optimizer": {"name": "sgd", "decay_start": 0.0},
}


@dataclass(frozen=True)
class CSDEdit(EditMethod):
    """CSD-Edit: (1/N) sum_j [k(x_j, x_i) DDS_j - grad_{x_j} k(x_j, x_i)], SVGD of edits.

    The sum is over the N images of the step that are edited towards the same prompt, such as the
    frames of a film. One image alone is DDS.

    Attributes:
        guidance: guidance scale s of DDS.
        kernel_space: what the kernel k compares: xt, the noised images, as in the authors' code,
            which needs one time for all rows; or x0, the images.
    """

    name = "csd-edit"

    kernel_space: Literal["x0", "xt"] = "xt"

    bibtex = SVGD.bibtex
    passes = "4 in one call (2 at guidance 1); the kernel is N^2, the network is not"
    edit_recipes = {
        "small": {
            "method": {"guidance": 3.0},
            "timesteps": _SHARED | {"t_min": 0.05, "t_max": 0.95},
        },
        "diffusion": {"method": {"guidance": 7.5}, **_CODE},
        "flux": {"method": {"guidance": 1.0}, **_CODE},
    }

    @property
    def needs_shared_times(self) -> bool:
        return self.kernel_space == "xt"

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        return {"timesteps": _SHARED}

    def init(self, prior: Prior, setup: SetupContext) -> TargetGroups:
        super().init(prior, setup)
        return TargetGroups(setup)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        assert isinstance(state, TargetGroups)  # made by init
        eps_target, eps_source = self.predict_target_and_source(prior, inputs)
        dds = eps_target - eps_source
        x = inputs.xt if self.kernel_space == "xt" else inputs.x0.detach()
        direction = apply_per_prompt(state, inputs, stein_direction, x.flatten(1), dds.flatten(1))
        return direction.view_as(dds)
