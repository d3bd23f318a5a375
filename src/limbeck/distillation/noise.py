"""Which noise: how eps of each row is drawn. Frozen dataclasses: their fields are their options."""

from __future__ import annotations

import abc
import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import ddim_trajectory, implied_noise, inversion_times
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import StepInputs


@dataclass(frozen=True)
class Noise(abc.ABC):
    """Standard normal noise for every row."""

    def refine(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        """The noise of the step, which may ask the prior; what was drawn, unless said otherwise."""
        return sample.eps

    @abc.abstractmethod
    def __call__(
        self,
        view: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        """Noise of one x0 ``shape`` per row of ``view`` (particle indices) at ``step``, float32 on the CPU."""


@dataclass(frozen=True)
class IndependentNoise(Noise):
    """Independent at every step."""

    def __call__(
        self,
        view: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.randn(len(view), *shape, generator=rng)


@dataclass(frozen=True)
class FixedPerParticleNoise(Noise):
    """Each particle keeps its own noise for the whole run (CFD, FSD in 2D)."""

    def __call__(
        self,
        view: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.stack([_own(seed, int(i), shape) for i in view])


def _own(seed: int, particle: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed * 100_003 + particle + 250_007)
    )


def _at(seed: int, particle: int, node: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal and a function of the four only; a hash keeps neighbours apart."""
    digest = hashlib.blake2b(f"{seed} {particle} {node}".encode(), digest_size=7).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest)))


@dataclass(frozen=True)
class DriftingNoise(Noise):
    """Each particle's noise drifts: eps <- sqrt(1 - gamma) eps + sqrt(gamma) n, n fresh (CFD); gamma 0 is ``fixedperparticle``.

    eps at a step is computed from the seed and the step alone, so that a resumed run goes on with the same bits. The recursion is a
    stationary Gaussian Markov chain whose correlation over d steps is (1 - gamma)^(d/2); hence it can be drawn at steps 1, 2, 4, 8,
    ... and then halfway between two drawn ones, which is the same law. Step k costs at most 2 log2(k) + 2 normals per number
    instead of k.

    gamma: share of the variance that is new at each step, in [0, 1]; 1 is fresh noise.
    """

    gamma: float = 0.001

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], not {self.gamma}")

    def __call__(
        self,
        view: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.stack([self._of(int(i), shape, step, seed) for i in view])

    def _of(self, particle: int, shape: tuple[int, ...], step: int, seed: int) -> Tensor:
        left, low, high = _own(seed, particle, shape), 0, 1
        if step == 0:
            return left
        right = self._later(left, 1, _at(seed, particle, 1, shape))
        while high < step:
            left, low, high = right, high, 2 * high
            right = self._later(left, high - low, _at(seed, particle, high, shape))
        while high > step:
            middle = (low + high) // 2
            between = self._between(left, right, middle - low, _at(seed, particle, middle, shape))
            left, low, right, high = (
                (between, middle, right, high) if step > middle else (left, low, between, middle)
            )
        return right

    def _later(self, eps: Tensor, steps: int, new: Tensor) -> Tensor:
        kept = (1 - self.gamma) ** steps
        return kept**0.5 * eps + (1 - kept) ** 0.5 * new

    def _between(self, left: Tensor, right: Tensor, steps: int, new: Tensor) -> Tensor:
        """The chain ``steps`` after ``left`` and before ``right``, given both."""
        kept = (1 - self.gamma) ** steps
        return kept**0.5 / (1 + kept) * (left + right) + ((1 - kept) / (1 + kept)) ** 0.5 * new


@dataclass(frozen=True)
class AntitheticNoise(Noise):
    """Noise in pairs eps, -eps: what is odd in eps cancels over a pair, without error where the denoiser is linear in x_t.

    over: steps, where each particle meets eps at an even step and -eps at the next; or rows, where particles drawn together share
    it two by two, in order, and the last of an odd number is alone. Times are not paired: take a fixed or planned one, or one per
    batch.
    """

    over: Literal["steps", "rows"] = "steps"

    def __call__(
        self,
        view: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        if self.over == "steps":
            # the negative node numbers are no step of a drifting noise
            return (
                torch.stack([_at(seed, int(i), -1 - step // 2, shape) for i in view]) * (-1) ** step
            )
        eps = torch.randn((len(view) + 1) // 2, *shape, generator=rng)
        return torch.stack([eps, -eps], 1).flatten(0, 1)[: len(view)]


@dataclass(frozen=True)
class PredictedNoise(Noise):
    """Fresh noise, replaced by what the prior takes it for: eps <- eps_hat(alpha x + sigma eps), some rounds of it (the step of
    RFDS-Rev; many rounds seek the fixed point of SDI).

    guidance: s of the prediction. rounds: of the replacement.
    """

    guidance: float = 1.0
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, not {self.rounds}")

    def __call__(
        self,
        view: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.randn(len(view), *shape, generator=rng)

    def refine(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        eps, x0 = sample.eps, sample.x0.detach()
        for _ in range(self.rounds):
            eps = guided_prediction(
                prior,
                sample.schedule.add_noise(x0, eps, sample.t),
                sample.t,
                sample.conditions,
                self.guidance,
            ).eps
        return eps


@dataclass(frozen=True)
class InvertedNoise(Noise):
    """The noise that the prior sees in x: kappa = (x_t - alpha x) / sigma, x_t by guided DDIM inversion of x (SDI).

    guidance: s of the inversion. strides: into which it divides the whole schedule. eta: fresh noise added after every stride.
    """

    guidance: float = -6.5
    strides: int = 10
    eta: float = 0.3

    def __post_init__(self) -> None:
        if self.strides < 1 or not self.eta >= 0:
            raise ValueError(
                f"strides must be at least 1 and eta must not be negative, not {self.strides} and {self.eta}"
            )

    def __call__(
        self,
        view: Int[Tensor, "b"],
        shape: tuple[int, ...],
        step: int,
        seed: int,
        rng: torch.Generator,
    ) -> Float[Tensor, "b ..."]:
        return torch.zeros(len(view), *shape)  # nothing is drawn before the prior is asked

    def refine(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        x, times = (
            sample.x0.detach(),
            inversion_times(sample.schedule, sample.t_cpu, 0, self.strides),
        )
        xt = ddim_trajectory(
            prior, x, sample.conditions, times, self.guidance, self.eta, sample.rng
        )
        return implied_noise(sample.schedule, x, xt, sample.t)
