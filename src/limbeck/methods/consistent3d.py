"""Consistent3D, consistency distillation sampling: Wu et al. 2024 (arXiv 2401.09050)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class Consistent3D(StatelessMethod):
    """Consistent3D: eps_hat_s(x_t, t) - eps_hat_s(x_t', t'), x_t' by one DDIM step of x_t, t' < t.

    With one fixed noise n this is a step of the deterministic flow from x + lambda_t n. t' is the
    time of the run, and t is later by a random interval.

    Attributes:
        guidance: guidance scale s of both predictions.
        min_interval: smallest t - t', in [0, max_interval].
        max_interval: largest t - t', in [min_interval, 1].
    """

    name = "consistent3d"

    guidance: float = 100.0
    min_interval: float = 0.1
    max_interval: float = 0.3

    bibtex = """@inproceedings{wu2024consistent3d,
  title={Consistent3D: Towards Consistent High-Fidelity Text-to-3D Generation with Deterministic
    Sampling Prior},
  author={Wu, Zike and Zhou, Pan and Yi, Xuanyu and Yuan, Xiaoding and Zhang, Hanwang},
  booktitle={CVPR},
  year={2024}
}"""
    passes = "4 (2 at guidance 1), in two calls"

    def __post_init__(self) -> None:
        low, high = self.min_interval, self.max_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                "intervals must satisfy 0 <= min_interval <= max_interval <= 1, "
                f"not {low} and {high}"
            )

    def later_time(self, inputs: StepInputs) -> Float[Tensor, "b"]:
        """t = t' + U[min_interval, max_interval), at most 1, on the CPU."""
        uniform = inputs.rng.per_group.uniform("interval").to(inputs.t_cpu)
        interval = self.min_interval + (self.max_interval - self.min_interval) * uniform
        return inputs.schedule.snap((inputs.t_cpu + interval).clamp_max(1))

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        schedule, y, s = inputs.schedule, inputs.conditions, self.guidance
        t = to_device(self.later_time(inputs), inputs.t.device)
        # z_t = x + lambda_t n in the paper is x_t / alpha_t; its step of size lambda_t' - lambda_t
        # along eps_hat is one of DDIM
        xt = schedule.add_noise(inputs.x0.detach(), inputs.eps, t)
        at_t = guided_prediction(prior, xt, t, y, s)
        x_prev = schedule.add_noise(at_t.x0, at_t.eps, inputs.t)
        return at_t.eps - guided_prediction(prior, x_prev, inputs.t, y, s).eps
