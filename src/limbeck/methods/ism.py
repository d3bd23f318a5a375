"""ISM, interval score matching: LucidDreamer (Liang et al. 2023, arXiv 2311.11284)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times_before, run_ddim
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class ISM(StatelessMethod):
    """Interval score matching: eps_hat_s(x_t, t, y) - eps(x_s, s), s = t - delta_t.

    x_s and x_t are found by unconditional DDIM inversion of x.

    Attributes:
        guidance: guidance scale s of the first prediction.
        delta_t: interval after the warm-up, as a fraction of the schedule.
        delta_t_start: interval at the first step, as a fraction of the schedule.
        warmup: fraction of the run over which the interval changes linearly. 0: delta_t only.
        delta_s: stride of the inversion up to s, in (0, 1].
        inversion_steps: largest number of strides up to s. If they do not reach from 0 to s, the
            inversion starts from x_t of the drawn noise at s - inversion_steps delta_s.
        noisy_start: add the drawn noise at time 0 too, as in the authors' code.
    """

    guidance: float = 7.5
    delta_t: float = 0.08
    delta_t_start: float = 0.1
    warmup: float = 0.3
    delta_s: float = 0.2
    inversion_steps: int = 5
    noisy_start: bool = False

    bibtex = """@inproceedings{liang2024luciddreamer,
  title={LucidDreamer: Towards High-Fidelity Text-to-3D Generation via Interval Score Matching},
  author={Liang, Yixun and Yang, Xin and Lin, Jiantao and Li, Haodong and Xu, Xiaogang and
    Chen, Yingcong},
  booktitle={CVPR},
  year={2024}
}"""
    passes = "at most 5 to reach s, 1 at s, 2 at t"

    def __post_init__(self) -> None:
        for name in ("delta_t", "delta_t_start", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 < self.delta_s <= 1:
            raise ValueError(f"delta_s must be in (0, 1], not {self.delta_s}")
        if self.inversion_steps < 0:
            raise ValueError(f"inversion_steps must be at least 0, not {self.inversion_steps}")

    def unused_options(self) -> dict[str, str]:
        # strides that reach from 0 to any s start there, from x itself
        starts_at_x = not self.noisy_start and self.inversion_steps * self.delta_s >= 1
        instead = "it inverts x to its noise; leave it out, or use --method.noisy-start true"
        return {"noise": instead} if starts_at_x else {}

    def interval(self, step: int, steps: int) -> float:
        """delta_t at ``step`` of ``steps``."""
        rest = max(0.0, 1 - step / (self.warmup * steps)) if self.warmup > 0 else 0.0
        return self.delta_t + rest * (self.delta_t_start - self.delta_t)

    def invert(
        self, prior: Prior, inputs: StepInputs, s: Float[Tensor, "b"]
    ) -> Float[Tensor, "b ..."]:
        """x_s of each row, for times s on the CPU."""
        x, schedule = inputs.x0.detach(), inputs.schedule
        times = ddim_times_before(schedule, s, self.delta_s, self.inversion_steps)
        is_noisy = expand(((times[0] > 0) | self.noisy_start).to(times[0]), x)
        start = torch.where(is_noisy > 0, schedule.add_noise(x, inputs.eps, times[0]), x)
        empty = inputs.conditions.unconditional
        return run_ddim(prior, start, Conditions(empty, empty), times, 0.0)

    def step_schedule(self, step: int, steps: int) -> float:
        return self.interval(step, steps)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        t, schedule, conditions = inputs.t, inputs.schedule, inputs.conditions
        s = schedule.snap((inputs.t_cpu - self.interval(inputs.step, inputs.steps)).clamp_min(0))
        xs = self.invert(prior, inputs, s)
        at_s = prior(xs, to_device(s, t.device), conditions.unconditional)[0]
        xt = schedule.add_noise(at_s.x0, at_s.eps, t)
        return guided_prediction(prior, xt, t, conditions, self.guidance).eps - at_s.eps
