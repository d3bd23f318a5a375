"""DVRF, delta velocity rectified flow: Beaudouin et al. 2025 (arXiv 2509.05342), also DRFS."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.flow import coupled_noise, velocity
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source


@dataclass(frozen=True)
class VelocityEditMethod(EditMethod):
    """An editing method stated in velocities, with a guidance scale for each prediction.

    Attributes:
        guidance: guidance scale s of the velocity of the edited image.
        source_guidance: guidance scale of the velocity of its source.
    """

    guidance: float = 16.5
    source_guidance: float = 6.0

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return self.guidance, self.source_guidance

    def delta_velocity(
        self, prior: Prior, inputs: StepInputs, eta: float
    ) -> Float[Tensor, "b ..."]:
        """v_hat_s(z, u, y) - v_hat(z_source, u, y_source) + (1 - eta) (x - x_source).

        With z = (1 - u) x + u eps' and eps' = eps + eta (x - x_source) it is the difference of
        v_hat - v, v = eps' - x of the edited image and eps - x_source of its source.

        Args:
            prior: the frozen prior.
            inputs: the current step.
            eta: 0: both have the same noise; 1: z - z_source = x - x_source.
        """
        source, x = edit_source(inputs), inputs.x0.detach()
        eps = coupled_noise(inputs, source.x0, eta)
        xt, source_xt = (
            inputs.schedule.add_noise(x0, noise, inputs.t)
            for x0, noise in ((x, eps), (source.x0, inputs.eps))
        )
        target_hat = guided_prediction(prior, xt, inputs.t, inputs.conditions, self.guidance)
        source_hat = guided_prediction(
            prior, source_xt, inputs.t, source.conditions, self.source_guidance
        )
        difference = velocity(target_hat) - velocity(source_hat)
        return difference + (1 - eta) * (x - source.x0)


_SCHEDULE = {"steps": 50, "lr": 0.044, "timesteps": "trailing"}


@dataclass(frozen=True)
class DVRF(VelocityEditMethod):
    """Delta velocity of a flow: v_hat_s(z, u, y) - v_hat(z_source, u, y_source) + a pull.

    The pull is (1 - eta_i) (x - x_source), and z = (1 - u) x + u eps + eta_i u (x - x_source) with
    eta_i = eta i / N at step i of N. It is DDS in velocities at eta_i = 0 and FlowEdit at 1.

    Attributes:
        guidance: guidance scale s of the velocity of the edited image.
        source_guidance: guidance scale of the velocity of its source.
        eta: eta_i at the end of the run.
    """

    name = "dvrf"

    eta: float = 1.0

    bibtex = """@article{beaudouin2025delta,
  title={Delta Velocity Rectified Flow for Text-to-Image Editing},
  author={Beaudouin, Gaspard and Li, Minghan and Kim, Jaeyeon and Yoon, Sung-Hoon and Wang, Mengyu},
  journal={arXiv:2509.05342},
  year={2025}
}"""
    passes = "4 in two calls (3 with one guidance at 1, 2 with both)"
    edit_recipes = {
        "small": {"method": {"guidance": 3.0, "source_guidance": 1.0}, "lr": 0.04},
        "diffusion": _SCHEDULE,
        "flux": {"method": {"guidance": 1.0, "source_guidance": 1.0}, **_SCHEDULE},
    }

    def step_schedule(self, step: int, steps: int) -> float:
        return self.eta * step / steps

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        return self.delta_velocity(prior, inputs, self.step_schedule(inputs.step, inputs.steps))
