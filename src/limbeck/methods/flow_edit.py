"""FlowEdit, inversion-free editing by a flow: Kulikov et al. 2024 (arXiv 2412.08629)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.flow import euler_step
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.dvrf import VelocityEditMethod


@dataclass(frozen=True)
class FlowEdit(VelocityEditMethod):
    """FlowEdit: (u - u') [v_hat_s(x + z_source - x_source, u, y) - v_hat(z_source, u, y_source)].

    z_source = (1 - u) x_source + u eps with a fresh eps at each step. With ``--timesteps trailing``
    and SGD at learning rate 1 the run is the Euler solver of the paper.

    Attributes:
        guidance: guidance scale s of the velocity of the edited image.
        source_guidance: guidance scale of the velocity of its source.
    """

    guidance: float = 13.5
    source_guidance: float = 3.5

    bibtex = """@inproceedings{kulikov2025flowedit,
  title={FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models},
  author={Kulikov, Vladimir and Kleiner, Matan and Huberman-Spiegelglas, Inbar and
    Michaeli, Tomer},
  booktitle={ICCV},
  year={2025}
}"""
    passes = "4 in two calls (2 at guidance 1)"

    def step_schedule(self, step: int, steps: int) -> float:
        return (steps - step - 1) / (steps - step)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        delta = self.delta_velocity(prior, inputs, 1.0)
        return expand(euler_step(inputs), delta) * delta
