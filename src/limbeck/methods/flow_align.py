"""FlowAlign, editing by a flow that keeps to its source: Kim et al. 2025 (arXiv 2505.23145)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.flow import (
    EULER_RECIPE,
    coupled_noise,
    euler_solver,
    euler_step,
    velocity,
)
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source


@dataclass(frozen=True)
class FlowAlign(EditMethod):
    """FlowAlign: (u - u') (v_p - v_q) + zeta (x0_hat_p - x0_hat_q), three passes.

    q = (1 - u) x_source + u eps and p = x + q - x_source. v_q = v(q, u, y_source), and v_p is
    guided from the source prompt: v(p, u, y_source) + s (v(p, u, y) - v(p, u, y_source)). x0_hat_p
    and x0_hat_q are those of v_p and v_q. With ``--timesteps trailing`` and SGD at learning rate 1
    the run is the Euler solver of the paper.

    Attributes:
        guidance: guidance scale s, from the source prompt to the prompt.
        zeta: weight of the pull to the structure of the source, per step; at least 0.
    """

    guidance: float = 13.5
    zeta: float = field(default=0.01, metadata={"minimum": 0})

    bibtex = """@article{kim2025flowalign,
  title={FlowAlign: Trajectory-Regularized, Inversion-Free Flow-based Image Editing},
  author={Kim, Jeongsol and Hong, Yeobin and Park, Jonghyun and Ye, Jong Chul},
  journal={arXiv:2505.23145},
  year={2025}
}"""
    passes = "3 in two calls"
    edit_recipes = {
        "small": {"method": {"guidance": 3.0}, **euler_solver(1.0, 50)},
        "diffusion": euler_solver(1.0, 33),
    }

    def unused_options(self) -> dict[str, str]:
        return {"negative_prompt": "leave it out, --source-prompt stands in its place"}

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        return EULER_RECIPE

    def step_schedule(self, step: int, steps: int) -> float:
        return (steps - step - 1) / (steps - step)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        source, t, schedule = edit_source(inputs), inputs.t, inputs.schedule
        eps = coupled_noise(inputs, source.x0, 1.0)
        p = schedule.add_noise(inputs.x0.detach(), eps, t)
        q = schedule.add_noise(source.x0, inputs.eps, t)
        y = replace(inputs.conditions, null=source.conditions.pos)
        at_p = guided_prediction(prior, p, t, y, self.guidance)
        at_q = guided_prediction(prior, q, t, source.conditions, 1.0)
        delta = velocity(at_p) - velocity(at_q)
        return expand(euler_step(inputs), delta) * delta + self.zeta * (at_p.x0 - at_q.x0)
