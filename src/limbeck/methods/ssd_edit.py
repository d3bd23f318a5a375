"""SSD-edit, stable score distillation for editing: Zhu et al. 2025 (arXiv 2507.09168)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction, guided_predictions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source

_DESCENT = {"timesteps": {"name": "linear", "t_min": 0.02, "t_max": 0.98}, "optimizer": "adam"}


@dataclass(frozen=True)
class SSDEdit(EditMethod):
    """Stable SD for editing: two classifiers of the prompt, one against the source prompt.

    a (eps(x_t, y_source) - eps(x_t_source)) + b (eps(x_t, y) - eps(x_t, y_source))
    + s (eps(x_t, y) - eps(x_t)) + c e^t alpha_t (x - x_source), with one eps and t.

    Attributes:
        guidance: s, weight of the prompt against the empty one.
        cross_prompt: b, weight of the prompt against the source prompt.
        cross_trajectory: a, weight of the source prompt on the image against the empty one on its
            source.
        pull: c, weight of the pull to the source.
    """

    name = "ssd-edit"

    guidance: float = 5.5
    cross_prompt: float = 3.75
    cross_trajectory: float = 1.0
    pull: float = field(default=0.075, metadata={"minimum": 0})

    bibtex = """@article{zhu2025stable,
  title={Stable Score Distillation},
  author={Zhu, Haiming and Xu, Yangyang and Xu, Chenshu and Shen, Tingrui and Liu, Wenxi and
    Du, Yong and Yu, Jun and He, Shengfeng},
  journal={arXiv:2507.09168},
  year={2025}
}"""
    passes = "4 in two calls"
    edit_recipes = {
        "small": {"method": {"guidance": 3.0}, "steps": 80, "lr": 0.035, **_DESCENT},
        "diffusion": {"steps": 1500, "lr": 0.01, **_DESCENT},
    }

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return 0.0, 1.0

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        source, x, t, schedule = edit_source(inputs), inputs.x0.detach(), inputs.t, inputs.schedule
        y, y_source = inputs.conditions, source.conditions
        eps, eps_y_source, eps_null = (
            prediction.eps
            for prediction in guided_predictions(
                prior, inputs.xt, t, (y, 1.0), (y_source, 1.0), (y, 0.0)
            )
        )
        source_xt = schedule.add_noise(source.x0, inputs.eps, t)
        eps_source_null = guided_prediction(prior, source_xt, t, y_source, 0.0).eps
        pull = self.pull * expand(torch.exp(t.double()) * schedule.alpha(t), x)
        return (
            self.cross_trajectory * (eps_y_source - eps_source_null)
            + self.cross_prompt * (eps - eps_y_source)
            + self.guidance * (eps - eps_null)
            + pull * (x - source.x0)
        )
