"""Random numbers of each row of a step, by hashing: no row's depend on which others there are."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LARGE = 1 << 26  #: numbers from which a draw is checked to fit into memory
_PARTICLE, _VIEW = np.uint64(0xD1342543DE82EF95), np.uint64(0xAEF17502108EF2D9)
#: step of the draws before the first step, such as initial values
BEFORE_TRAINING = -1
#: purpose of the noise z that a one-step generator turns into a sample
GENERATOR_NOISE = "z"


def _mix(z: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The bijective finalizer of SplitMix64 (variant 13 of Stafford), in place."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def occurrences(values: Int[Tensor, "b"]) -> Int[Tensor, "b"]:
    """For each value, how many of the values before it are equal to it.

    Args:
        values: values on the CPU.
    """
    order = values.argsort(stable=True)
    ordered, place = values[order], torch.arange(len(values))
    first = torch.ones(len(values), dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    start = torch.where(first, place, 0).cummax(0).values if len(values) else place
    return torch.empty_like(place).scatter_(0, order, place - start)


def _row_size(function: str, purpose: object, shape: tuple[object, ...]) -> int:
    """Numbers of one row.

    Raises:
        TypeError: if the purpose is no text or the shape not of integers; it says what is accepted.
    """
    sizes = [int(size) for size in shape if isinstance(size, int | np.integer) and size >= 0]
    if isinstance(purpose, str) and len(sizes) == len(shape):
        return math.prod(sizes)
    given = ", ".join(f"{value!r:.60}" for value in (purpose, *shape))
    call = (
        "rng.generator(purpose)" if function == "generator" else f"rng.{function}(purpose, *shape)"
    )
    sample = "" if function == "generator" else ", *inputs.x0.shape[1:]"
    raise TypeError(
        f"{call} takes a purpose in words and the shape of one row as integers, such as "
        f'rng.{function}("second noise"{sample}), not ({given})'
    )


class RunSeed(int):
    """A seed of a run with several prompts, each with the same number of particles.

    Draws depend on a particle's prompt and its number among the particles of this prompt, so that
    more particles per prompt do not change those that were there. With one prompt, the draws are
    those of the plain integer.

    Attributes:
        per_prompt: particles of a prompt.
    """

    per_prompt: int

    def __new__(cls, seed: int, per_prompt: int) -> RunSeed:
        self = super().__new__(cls, seed)
        self.per_prompt = per_prompt
        return self

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return int(self), self.per_prompt  # for copies


@dataclass(frozen=True)
class RowRandom:
    """Random numbers of rows, a function of (seed, step, particle, view, purpose) and nothing else.

    With a ``RunSeed``, a particle counts as (prompt, particle of the prompt).

    A draw has a purpose, such as "eps"; the same purpose gives the same numbers again. Numbers are
    hashed from a counter (two rounds of SplitMix64's finalizer under a 128-bit key), on the CPU,
    so that every device gets the same and no state needs to be saved.

    Attributes:
        seed: seed of the run.
        step: current step, from 0; ``BEFORE_TRAINING`` for initial values.
        particle: particle index of each row ``[B]``, on the CPU.
        view: number of the row among those of its particle ``[B]``.
        scope: prefix of the purposes.
        group_size: rows of a particle that form a group of views, next to each other.
    """

    seed: int
    step: int
    particle: Int[Tensor, "b"]
    view: Int[Tensor, "b"]
    scope: str = ""
    group_size: int = 1

    @staticmethod
    def of_step(seed: int, step: int, particle: Int[Tensor, "b"], group_size: int = 1) -> RowRandom:
        """Random numbers of the rows of a step; rows of one particle are its views.

        Args:
            seed: seed of the run.
            step: current step, from 0.
            particle: particle index of each row.
            group_size: views of a particle that form a group.
        """
        particle = particle.cpu()
        return RowRandom(seed, step, particle, occurrences(particle), group_size=group_size)

    @staticmethod
    def initial(seed: int, particles: int) -> RowRandom:
        """Random numbers for the initial values, one row per particle.

        Args:
            seed: seed of the run.
            particles: number of particles.
        """
        return RowRandom.of_step(seed, BEFORE_TRAINING, torch.arange(particles))

    def __len__(self) -> int:
        return len(self.particle)

    def __getitem__(self, rows: Int[Tensor, "r"] | slice) -> RowRandom:
        return replace(self, particle=self.particle[rows], view=self.view[rows])

    def split(self) -> list[RowRandom]:
        """One of each row."""
        return [self[i : i + 1] for i in range(len(self))]

    def repeat(self, rows: Int[Tensor, "r"]) -> RowRandom:
        """Some of the rows, each perhaps several times, with different numbers each time.

        Args:
            rows: indices of rows, whole groups of them.
        """
        chosen = self.fold("repeated")[rows]
        repeat = self.group_size * (occurrences(rows) << 32)
        return replace(chosen, view=chosen.view + repeat)

    def fold(self, scope: str) -> RowRandom:
        """Independent random numbers of the same rows.

        Args:
            scope: what they are for, such as the number of an inner iteration.
        """
        return replace(self, scope=f"{self.scope}{scope}/")

    @cached_property
    def per_particle(self) -> RowRandom:
        """The same for all views of a particle."""
        return replace(self, view=torch.full_like(self.view, -1))

    @cached_property
    def per_group(self) -> RowRandom:
        """The same for all views of a group; those of the rows themselves without groups."""
        if self.group_size == 1:
            return self
        # below -1, which stands for all views of a particle
        return replace(self, view=-2 - self.view // self.group_size)

    @cached_property
    def per_step(self) -> RowRandom:
        """One row, that of the whole step."""
        return RowRandom(self.seed, self.step, torch.tensor([-1]), torch.tensor([-1]), self.scope)

    def at_step(self, step: int) -> RowRandom:
        """The rows at another step, for noise that lasts.

        Args:
            step: the other step.
        """
        return replace(self, step=step)

    def _keys(self, purpose: str) -> tuple[np.ndarray, np.ndarray]:
        text = f"{self.seed} {self.step} {self.scope}{purpose}".encode()
        first, second = np.frombuffer(hashlib.blake2b(text, digest_size=16).digest(), np.uint64)
        particle = self.particle.numpy().astype(np.int64)
        if isinstance(self.seed, RunSeed):
            prompt, own = np.divmod(particle, self.seed.per_prompt)
            particle = np.where(particle < 0, particle, (prompt << 32) + own)
        particle = particle.view(np.uint64)
        view = self.view.numpy().astype(np.int64).view(np.uint64)
        key = _mix(first + particle * _PARTICLE)
        key = _mix(key + view * _VIEW)
        return key, _mix(key ^ second)

    def bits(self, purpose: str, count: int) -> UInt64[np.ndarray, "b n"]:
        """Random 64-bit words.

        Args:
            purpose: what they are for.
            count: number of words per row.
        """
        if len(self) * count > _LARGE:
            torch.empty(len(self), count, device="meta")  # seen by an AllocationGuard
        key, other_key = self._keys(purpose)
        words = _mix(key[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
        words ^= other_key[:, None]
        return _mix(words)

    def uniform(self, purpose: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Uniform numbers in [0, 1), ``[B, *shape]``, float32 on the CPU.

        Args:
            purpose: what they are for.
            shape: shape of the numbers of one row.
        """
        count = _row_size("uniform", purpose, shape)
        words = self.bits(purpose, count) >> np.uint64(40)
        values = words.astype(np.float32) * np.float32(2**-24)
        return torch.from_numpy(values).view(len(self), *shape)

    def normal(self, purpose: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Standard normal numbers by Box-Muller, ``[B, *shape]``, float32 on the CPU.

        Args:
            purpose: what they are for.
            shape: shape of the numbers of one row.
        """
        count = _row_size("normal", purpose, shape)
        words = self.bits(purpose, (count + 1) // 2)
        # half a unit is added before the logarithm, so that it is finite
        high = (words >> np.uint64(32)).astype(np.float32) + np.float32(0.5)
        radius = np.sqrt(np.float32(-2) * np.log(high * np.float32(2**-32)).clip(max=0))
        angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float32)
        angle *= np.float32(2 * math.pi * 2**-32)
        values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)[:, :count]
        return torch.from_numpy(np.ascontiguousarray(values)).view(len(self), *shape)

    def generator(self, purpose: str) -> torch.Generator:
        """A torch generator for the particle of the first row, for draws of any other law.

        Args:
            purpose: what it is for.
        """
        _row_size("generator", purpose, ())
        word = self.per_particle[:1].bits(purpose, 1)[0, 0]
        return torch.Generator().manual_seed(int(word >> np.uint64(1)))
