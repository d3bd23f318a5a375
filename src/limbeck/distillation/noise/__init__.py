"""Noise: how eps of each row is drawn."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.lazy import defined_classes
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times, implied_noise, run_ddim
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.system.random import RowRandom, RunSeed


@dataclass(frozen=True)
class Noise(abc.ABC):
    """Noise eps of each row of a step."""

    needs_views: ClassVar[bool] = False  #: whether it needs the cameras and depths of 3D

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        """Scales of the guided predictions that ``refine`` makes."""
        return ()

    @abc.abstractmethod
    def __call__(self, rng: RowRandom, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        """Draw standard normal noise.

        Args:
            rng: random numbers of the rows, with the seed, the step and their particles.
            shape: shape of one x0.

        Returns:
            Noise ``[B, *shape]``, float32 on the CPU.
        """

    def refine(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        """Replace the drawn noise by one that depends on the prior; by default unchanged.

        Args:
            prior: the denoiser.
            inputs: inputs of the step with the drawn noise.
        """
        return inputs.eps


@dataclass(frozen=True)
class IndependentNoise(Noise):
    """Independent noise at every step."""

    def __call__(self, rng: RowRandom, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        return rng.normal("eps", *shape)


def _noise_at(rng: RowRandom, node: int, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
    """Noise of each particle that depends on ``node`` instead of the step."""
    return rng.per_particle.at_step(node).normal("lasting noise", *shape)


@dataclass(frozen=True)
class FixedPerParticleNoise(Noise):
    """One fixed noise per particle for the whole run (CFD and FSD in 2D)."""

    def __call__(self, rng: RowRandom, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        return _noise_at(rng, 0, shape)


@dataclass(frozen=True)
class DriftingNoise(Noise):
    """Slowly changing noise per particle: eps <- sqrt(1 - gamma) eps + sqrt(gamma) n, n new (CFD).

    With gamma 0 this is ``fixed-per-particle``. eps of a step is computed from the seed and the
    step alone, so no state is needed and a resumed run has the same bits: the recursion is a
    stationary Gaussian Markov chain with correlation (1 - gamma)^(d/2) over d steps, so it can be
    drawn at steps 1, 2, 4, 8, ... and then halfway between two drawn steps, with the same law.
    Step k costs at most 2 log2(k) + 2 normal draws per element instead of k.

    Attributes:
        gamma: fraction of the variance that is new at each step, in [0, 1]. 1: independent noise.
    """

    gamma: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], not {self.gamma}")

    def __call__(self, rng: RowRandom, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        left, low, high, step = _noise_at(rng, 0, shape), 0, 1, rng.step
        if step == 0:
            return left
        right = self._forward(left, 1, _noise_at(rng, 1, shape))
        while high < step:
            left, low, high = right, high, 2 * high
            right = self._forward(left, high - low, _noise_at(rng, high, shape))
        while high > step:  # bisection between steps low and high
            middle = (low + high) // 2
            new = _noise_at(rng, middle, shape)
            between = self._bridge(left, right, middle - low, new)
            if step > middle:
                left, low = between, middle
            else:
                right, high = between, middle
        return right

    def _forward(self, eps: Tensor, steps: int, new: Tensor) -> Tensor:
        """The chain ``steps`` after ``eps``."""
        retained = (1 - self.gamma) ** steps
        return retained**0.5 * eps + (1 - retained) ** 0.5 * new

    def _bridge(self, left: Tensor, right: Tensor, steps: int, new: Tensor) -> Tensor:
        """The chain ``steps`` after ``left`` and ``steps`` before ``right``, given both."""
        retained = (1 - self.gamma) ** steps
        mean = retained**0.5 / (1 + retained) * (left + right)
        return mean + ((1 - retained) / (1 + retained)) ** 0.5 * new


@dataclass(frozen=True)
class AntitheticNoise(Noise):
    """Antithetic pairs eps, -eps, over which terms that are odd in eps cancel.

    With a denoiser that is linear in x_t they cancel exactly. Times are not paired: use fixed or
    deterministic timesteps, or one time per batch (``--timesteps.no-per-row``).

    Attributes:
        pairing: steps: each particle gets eps at an even step and -eps at the next one. rows: views
            1 and 2, 3 and 4, ... of a particle get eps and -eps; with one view per particle,
            particles 0 and 1, 2 and 3, ... of a prompt do.
    """

    pairing: Literal["steps", "rows"] = "steps"

    def __call__(self, rng: RowRandom, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        if self.pairing == "steps":
            eps = rng.at_step(rng.step // 2).normal("antithetic pair", *shape)
            return eps * (-1) ** rng.step
        if len(rng) and int(rng.view.max()):
            number, paired = rng.view, replace(rng, view=rng.view // 2)
        else:
            per_prompt = rng.seed.per_prompt if isinstance(rng.seed, RunSeed) else None
            number = rng.particle if per_prompt is None else rng.particle % per_prompt
            paired = replace(rng, particle=rng.particle - number + number // 2)
        eps = paired.normal("antithetic rows", *shape)
        return eps * expand(1.0 - 2 * (number % 2), eps)


@dataclass(frozen=True)
class PredictedNoise(Noise):
    """Independent noise, replaced by its prediction: eps <- eps_hat_s(alpha x + sigma eps, t).

    One iteration is the step of RFDS-Rev; many iterations seek the fixed point of SDI.

    Attributes:
        guidance: guidance scale s of the prediction.
        iterations: number of replacements, at least 1.
    """

    guidance: float = 1.0
    iterations: int = 1

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {self.iterations}")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance,)

    def __call__(self, rng: RowRandom, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        return rng.normal("eps", *shape)

    def refine(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        eps, x0 = inputs.eps, inputs.x0.detach()
        for _ in range(self.iterations):
            xt = inputs.schedule.add_noise(x0, eps, inputs.t)
            eps = guided_prediction(prior, xt, inputs.t, inputs.conditions, self.guidance).eps
        return eps


@dataclass(frozen=True)
class InvertedNoise(Noise):
    """Noise kappa = (x_t - alpha x) / sigma, x_t by guided DDIM inversion of x (SDI).

    Attributes:
        guidance: guidance scale s of the inversion.
        inversion_steps: strides into which the inversion divides the whole schedule, at least 1.
        eta: scale of the noise added after every stride, at least 0. 0: deterministic.
    """

    guidance: float = -6.5
    inversion_steps: int = 10
    eta: float = 0.3

    def __post_init__(self) -> None:
        if self.inversion_steps < 1:
            raise ValueError(f"inversion_steps must be at least 1, not {self.inversion_steps}")
        if not self.eta >= 0:
            raise ValueError(f"eta must not be negative, not {self.eta}")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance,)

    def __call__(self, rng: RowRandom, shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
        return torch.zeros(len(rng), *shape)  # a placeholder that refine replaces

    def refine(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        x = inputs.x0.detach()
        times = ddim_times(inputs.schedule, inputs.t_cpu, 0, self.inversion_steps)
        xt = run_ddim(prior, x, inputs.conditions, times, self.guidance, self.eta, inputs.rng)
        return implied_noise(inputs.schedule, x, xt, inputs.t)


def __dir__() -> list[str]:
    return defined_classes(__name__)
