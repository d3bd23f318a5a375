"""FlowEdit, inversion-free editing by a flow: Kulikov et al. 2024 (arXiv 2412.08629)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.batching import draw_candidates
from limbeck.distillation.flow import (
    EULER_RECIPE,
    coupled_noise,
    euler_solver,
    euler_step,
    velocity,
)
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import edit_source
from limbeck.methods.dvrf import VelocityEditMethod


@dataclass(frozen=True)
class FlowEdit(VelocityEditMethod):
    """FlowEdit: (u - u') [v_hat_s(x + z_source - x_source, u, y) - v_hat(z_source, u, y_source)].

    z_source = (1 - u) x_source + u eps with a fresh eps at each step. With ``--timesteps trailing``
    and SGD at learning rate 1 the run is the Euler solver of the paper.

    Attributes:
        num_noises: noises per step, over which the difference of the velocities is averaged.
        sampling_steps: last steps, which sample from the flow of the edited image alone.
    """

    guidance: float = 13.5
    source_guidance: float = 3.5
    num_noises: int = field(default=1, metadata={"minimum": 1})
    sampling_steps: int = field(default=0, metadata={"minimum": 0})

    bibtex = """@inproceedings{kulikov2025flowedit,
  title={FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models},
  author={Kulikov, Vladimir and Kleiner, Matan and Huberman-Spiegelglas, Inbar and
    Michaeli, Tomer},
  booktitle={ICCV},
  year={2025}
}"""
    passes = (
        "4N in two calls, N noises (3N with one guidance at 1, 2N with both); 2 in one call in a "
        "step that samples"
    )
    edit_recipes = {
        "small": {"method": {"guidance": 5.0, "source_guidance": 1.0}, **euler_solver(0.85, 40)},
        "diffusion": euler_solver(0.66, 33),
        "flux": {"method": {"guidance": 1.0, "source_guidance": 1.0}, **euler_solver(24 / 28, 24)},
    }

    def check_steps(self, steps: int) -> None:
        if self.sampling_steps > steps:
            most = f"at most {steps}, the steps of the run, not {self.sampling_steps}"
            raise ValueError(f"method.sampling_steps must be {most}")

    @classmethod
    def recipe(cls, is_3d: bool) -> Mapping[str, Any]:
        return EULER_RECIPE

    def step_schedule(self, step: int, steps: int) -> float:
        return (steps - step - 1) / (steps - step)

    def sampling_velocity(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        """v_hat_s(z, u, y) - (eps - x_source) with one eps for all steps that sample.

        With z = x + z_source - x_source, which is x + u (eps - x_source), an Euler step of z along
        v_hat_s is one of x along this difference: the particle stays free of noise.

        Args:
            prior: the frozen prior.
            inputs: the current step.
        """
        source, first = edit_source(inputs), inputs.steps - self.sampling_steps
        drawn = inputs.rng.at_step(first).normal("sampling", *inputs.x0.shape[1:])
        eps = to_device(drawn, inputs.x0.device).to(inputs.eps)
        coupled = coupled_noise(replace(inputs, eps=eps), source.x0, 1.0)
        z = inputs.schedule.add_noise(inputs.x0.detach(), coupled, inputs.t)
        target_hat = guided_prediction(prior, z, inputs.t, inputs.conditions, self.guidance)
        return velocity(target_hat) - (eps - source.x0)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        if inputs.step >= inputs.steps - self.sampling_steps:
            delta = self.sampling_velocity(prior, inputs)
        elif self.num_noises > 1:
            by_noise = self.delta_velocity(prior, draw_candidates(inputs, self.num_noises), 1.0)
            delta = by_noise.unflatten(0, (self.num_noises, -1)).mean(0)
        else:
            delta = self.delta_velocity(prior, inputs, 1.0)
        return expand(euler_step(inputs), delta) * delta
