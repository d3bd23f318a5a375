"""SegmentDreamer, segmented consistency trajectory distillation: Zhu et al. 2025 (2507.05256)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.ranges import check_minimums
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import run_ddim
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class SegmentDreamer(StatelessMethod):
    """SegmentDreamer: (x_e^null - x_e) + (s + 1) (x_e - x_e^cond) in one segment of [0, 1].

    e is the lower edge of the segment of t. x_e = alpha_e x + sigma_e n goes by unconditional DDIM
    over s' to t, and back to e: under eps_hat_s in one step (cond), or under eps_hat_s to s' and
    unconditionally from there (null).

    Attributes:
        guidance: guidance scale s; it stands inside eps_hat_s and, plus 1, before the second term.
        num_segments: equal segments of [0, 1], at least 1; e is the lower edge of that of t.
        min_interval: smallest t - e, as a fraction of the schedule; earlier t are moved there.
        margin: smallest distance of s' from e and from t, at most half of min_interval.
    """

    name = "segment-dreamer"

    guidance: float = 7.5
    num_segments: int = 4
    min_interval: float = 0.08
    margin: float = 0.01

    bibtex = """@inproceedings{zhu2025segmentdreamer,
  title={SegmentDreamer: Towards High-fidelity Text-to-3D Synthesis with Segmented Consistency
    Trajectory Distillation},
  author={Zhu, Jiahao and Chen, Zixuan and Wang, Guangcong and Xie, Xiaohua and Zhou, Yi},
  booktitle={ICCV},
  year={2025}
}"""
    passes = "5 (4 at guidance 1), in four calls"

    def __post_init__(self) -> None:
        check_minimums(self, num_segments=1)
        if not 0 < self.min_interval <= 1 / self.num_segments:
            raise ValueError(
                f"min_interval must be in (0, 1 / num_segments], not {self.min_interval}"
            )
        if not 0 <= self.margin <= self.min_interval / 2:
            raise ValueError(f"margin must be in [0, min_interval / 2], not {self.margin}")

    def times(
        self, inputs: StepInputs
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b"]]:
        """e, s' and t of each row, on the CPU."""
        drawn, snap, count = inputs.t_cpu, inputs.schedule.snap, self.num_segments
        edge = (drawn * count).floor().clamp_max(count - 1) / count
        t = torch.maximum(drawn, edge + self.min_interval)
        uniform = inputs.rng.per_group.uniform("split").to(drawn)
        split = edge + self.margin + (t - edge - 2 * self.margin) * uniform
        return snap(edge), snap(split), snap(t)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        x, y, schedule = inputs.x0.detach(), inputs.conditions, inputs.schedule
        null = Conditions(y.unconditional, y.unconditional)
        e, split, t = self.times(inputs)
        on_e, on_split, on_t = (to_device(time, x.device) for time in (e, split, t))
        x_e = schedule.add_noise(x, inputs.eps, on_e)
        xt = run_ddim(prior, x_e, null, (e, split, t), 0.0)
        at_t = guided_prediction(prior, xt, on_t, y, self.guidance)
        x_e_cond = schedule.add_noise(at_t.x0, at_t.eps, on_e)
        x_split = schedule.add_noise(at_t.x0, at_t.eps, on_split)
        x_e_null = run_ddim(prior, x_split, null, (split, e), 0.0)
        return (x_e_null - x_e) + (self.guidance + 1) * (x_e - x_e_cond)
