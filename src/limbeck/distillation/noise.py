"""Noise: how eps of each row is drawn."""

from __future__ import annotations

import abc
import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.config.lazy import defined_classes
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_times, implied_noise, run_ddim
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import StepInputs


@dataclass(frozen=True)
class Noise(abc.ABC):
    """Noise eps of each row of a step."""

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        """Scales of the guided predictions that ``refine`` makes."""
        return ()

    @abc.abstractmethod
    def __call__(
        self,
        particle: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        """Draw standard normal noise.

        Args:
            particle: particle index of each row.
            shape: shape of one x0.
            step: current step, from 0.
            seed: seed of the run.
            rng: generator of the step.

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

    def __call__(
        self,
        particle: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.randn(len(particle), *shape, generator=rng)


def _fixed_noise(seed: int, particle: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 100_003 + particle + 250_007)
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class FixedPerParticleNoise(Noise):
    """One fixed noise per particle for the whole run (CFD; FSD in 2D)."""

    def __call__(
        self,
        particle: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.stack([_fixed_noise(seed, int(i), shape) for i in particle])


def _hashed_noise(seed: int, particle: int, node: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise that depends on the arguments only; hashing decorrelates neighbors."""
    digest = hashlib.blake2b(f"{seed} {particle} {node}".encode(), digest_size=7).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest)))


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

    def __call__(
        self,
        particle: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.stack([self._at_step(int(i), shape, step, seed) for i in particle])

    def _at_step(self, particle: int, shape: tuple[int, ...], step: int, seed: int) -> Tensor:
        """Noise of one particle at ``step``, by bisection between steps ``low`` and ``high``."""
        left, low, high = _fixed_noise(seed, particle, shape), 0, 1
        if step == 0:
            return left
        right = self._forward(left, 1, _hashed_noise(seed, particle, 1, shape))
        while high < step:
            left, low, high = right, high, 2 * high
            right = self._forward(left, high - low, _hashed_noise(seed, particle, high, shape))
        while high > step:
            middle = (low + high) // 2
            new = _hashed_noise(seed, particle, middle, shape)
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
        pairing: steps: each particle gets eps at an even step and -eps at the next one. rows: rows
            1 and 2, 3 and 4, ... of a step share eps; the last of an odd number has none to share.
    """

    pairing: Literal["steps", "rows"] = "steps"

    def __call__(
        self,
        particle: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        if self.pairing == "steps":
            # negative nodes, which are no steps of a drifting noise
            eps = torch.stack(
                [_hashed_noise(seed, int(i), -1 - step // 2, shape) for i in particle]
            )
            return eps * (-1) ** step
        eps = torch.randn((len(particle) + 1) // 2, *shape, generator=rng)
        return torch.stack([eps, -eps], 1).flatten(0, 1)[: len(particle)]


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

    def __call__(
        self,
        particle: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.randn(len(particle), *shape, generator=rng)

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

    def __call__(
        self,
        particle: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.zeros(len(particle), *shape)  # a placeholder that refine replaces

    def refine(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        x = inputs.x0.detach()
        times = ddim_times(inputs.schedule, inputs.t_cpu, 0, self.inversion_steps)
        xt = run_ddim(prior, x, inputs.conditions, times, self.guidance, self.eta, inputs.rng)
        return implied_noise(inputs.schedule, x, xt, inputs.t)


def __dir__() -> list[str]:
    return defined_classes(__name__)
