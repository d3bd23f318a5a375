"""Signal-to-noise ratio of a method's gradients at fixed times, in the middle of its own run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.distillation.timesteps.deterministic import FixedTimesteps
from limbeck.leaderboard.execution.workers import load_prior
from limbeck.leaderboard.images.cells import SEEDS, experiment_of
from limbeck.leaderboard.images.measurement import Measurement
from limbeck.metrics.estimate import Estimate
from limbeck.metrics.intervals import mean_interval
from limbeck.system.finite import NonFiniteError
from limbeck.training.trainer import Run

_ROUNDING = 1e-20  #: share of the squared mean that the trace of equal draws may have


def squared_snr(gradients: Float[Tensor, "draws b ..."]) -> Float[Tensor, "b"]:
    """|mean|^2 / trace of the covariance of each row, both by unbiased estimates.

    The squared norm of the mean of K draws exceeds that of the true mean by trace / K on average,
    which is subtracted: without any signal the estimate is about 0 on average, and may be negative.

    Args:
        gradients: at least two independent draws of each row's gradient.

    Returns:
        The ratios; infinite where all draws are the same, 0 where they are zero.
    """
    draws = gradients.double().flatten(2)
    trace, power = draws.var(0).sum(1), draws.mean(0).square().sum(1)
    noisy = trace > _ROUNDING * power
    ratio = (power - trace / len(draws)) / torch.where(noisy, trace, 1.0)
    constant = torch.where(power > 0, math.inf, 0.0).to(ratio)
    return torch.where(noisy, ratio, constant)


@dataclass(frozen=True)
class GradientNoise(Measurement):
    """Squared signal-to-noise ratio of the gradient by time, one value per prompt.

    The gradient is that of the latents after a quarter of the row's run, a critic as it is by then:
    steps are taken from there with independent draws at one time, and undone.

    Attributes:
        times: the times t.
        draws: independent gradients of each prompt at each time.
    """

    kind: ClassVar[str] = "gradient-noise"

    times: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    draws: int = 32

    @property
    def image_steps(self) -> int:
        per_prompt = self.steps // 4 + len(self.times) * self.draws
        return len(self.prompts) * per_prompt

    def measure(self) -> dict[str, Any]:
        """``squared_snr`` by time; None for a prompt whose run had a value that is not finite.

        JSON has no infinity, which is the text ``inf``.
        """
        found: dict[str, list[float | str | None]] = {f"{t:g}": [] for t in self.times}
        for group in self.prompt_groups():
            values = self._by_time(group)
            for t, by_prompt in found.items():
                own = values[t] if values else [None] * len(group)
                by_prompt += ["inf" if value == math.inf else value for value in own]
        return {"squared_snr": found}

    def _by_time(self, prompts: tuple[str, ...]) -> dict[str, list[float]] | None:
        """The values of a run; None if it had a value that is not finite."""
        cell = self.cell(self.prompts)
        run = Run(experiment_of(cell, prompts), load_prior(self.precision))
        try:
            while run.step < self.steps // 4:
                run.advance()
            return {f"{t:g}": squared_snr(self._draw(run, t)).tolist() for t in self.times}
        except NonFiniteError:
            return None

    def _draw(self, run: Run, t: float) -> Float[Tensor, "draws b ..."]:
        """Gradients of the next step of a run at a time, which is left as it was."""
        experiment, step = run.experiment, run.step
        before = {name: value.clone() for name, value in run.tensors().items()}
        gradients = []
        for number in range(self.draws):
            seed = (experiment.seed + 1 + number) % SEEDS
            run.experiment = replace(experiment, timesteps=FixedTimesteps(t), seed=seed)
            gradients.append(run.advance().gradient.detach().cpu())
            run.load({name: value.clone() for name, value in before.items()}, step)
        run.experiment = experiment
        return torch.stack(gradients)


def snr_values(result: Mapping[str, Any]) -> dict[str, Estimate]:
    """Root mean square over prompts of the signal-to-noise ratio, ``snr_0.1`` for t = 0.1.

    Args:
        result: result of ``GradientNoise``.
    """
    out = {}
    for t, by_prompt in result["squared_snr"].items():
        known = [float(value) for value in by_prompt if value is not None]
        if known:
            mean = sum(known) / len(known)
            ends = mean_interval(known) if math.isfinite(mean) else None
            interval = None if ends is None else (_root(ends[0]), _root(ends[1]))
            out[f"snr_{t}"] = Estimate(_root(mean), interval)
    return out


def _root(value: float) -> float:
    return math.sqrt(max(value, 0.0))
