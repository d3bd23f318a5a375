"""ISM, interval score matching: LucidDreamer (Liang et al. 2023, arXiv 2311.11284)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times_before, run_ddim
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class ISM(StatelessMethod):
    """eps_hat_s(x_t, t, y) - eps(x_s, s), s = t - delta_t, x_s and x_t by unconditional DDIM inversion of x.

    guidance: s of the first prediction. delta_t: interval, as a share of the schedule. delta_t_first: interval at the start of the
    run. anneal: share of the run in which it becomes delta_t. delta_s: stride of the inversion up to s. inversions: most strides;
    where they do not reach from 0 to s, the inversion starts from x_t of the drawn noise at s - inversions delta_s. noisy: let it
    start from drawn noise at time 0 too, as the code does.
    """

    guidance: float = 7.5
    delta_t: float = 0.08
    delta_t_start: float = 0.1
    anneal_end: float = 0.3
    delta_s: float = 0.2
    inversion_steps: int = 5
    noisy_start: bool = False

    bibtex = """@inproceedings{liang2024luciddreamer, title={LucidDreamer: Towards High-Fidelity Text-to-3D Generation via Interval
  Score Matching}, author={Liang, Yixun and Yang, Xin and Lin, Jiantao and Li, Haodong and Xu, Xiaogang and Chen, Yingcong},
  booktitle={CVPR}, year={2024}}"""
    passes = "at most 5 to reach s, 1 at s, 2 at t"

    def __post_init__(self) -> None:
        if not (0 <= self.delta_t <= 1 and 0 <= self.delta_t_start <= 1 and 0 <= self.anneal_end <= 1):
            raise ValueError(f"delta_t, delta_t_first and anneal lie in [0, 1]: {self}")
        if not 0 < self.delta_s <= 1 or self.inversion_steps < 0:
            raise ValueError(f"delta_s lies in (0, 1] and inversions is not negative: {self}")

    def interval(self, step: int, steps: int) -> float:
        """delta_t at ``step`` of ``steps``."""
        rest = max(0.0, 1 - step / (self.anneal_end * steps)) if self.anneal_end > 0 else 0.0
        return self.delta_t + rest * (self.delta_t_start - self.delta_t)

    def inverted(
        self, prior: Prior, sample: StepInputs, s: Float[Tensor, "b"]
    ) -> Float[Tensor, "b ..."]:
        """x_s of each row, s on the CPU."""
        x, times = (
            sample.x0.detach(),
            ddim_times_before(sample.schedule, s, self.delta_s, self.inversion_steps),
        )
        drawn = expand(((times[0] > 0) | self.noisy_start).to(times[0]), x)
        start = torch.where(drawn > 0, sample.schedule.add_noise(x, sample.eps, times[0]), x)
        return run_ddim(prior, start, sample.conditions.pos_and_null, times, 0.0)

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        s = sample.schedule.snap(
            (sample.t_cpu - self.interval(sample.step, sample.steps)).clamp_min(0)
        )
        null = prior(
            self.inverted(prior, sample, s), to_device(s, sample.t.device), sample.conditions.null
        )[0]
        xt = sample.schedule.add_noise(null.x0, null.eps, sample.t)
        return (
            guided_prediction(prior, xt, sample.t, sample.conditions, self.guidance).eps - null.eps
        )
