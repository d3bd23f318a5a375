"""Optimizers of the representation."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Optimizer(abc.ABC):
    """How gradients move parameters. The peak rate belongs to the representation.

    fall: share of the run after which the rate falls linearly to zero; 1 keeps it.
    """

    fall: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.fall <= 1:
            raise ValueError(f"fall is a share of the run in [0, 1], not {self.fall}")

    @abc.abstractmethod
    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer: ...

    def factor(self, step: int, steps: int) -> float:
        """What multiplies every rate at ``step`` of ``steps``."""
        progress = step / max(steps, 1)
        return 1.0 if progress <= self.fall else (1 - progress) / (1 - self.fall)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam without weight decay, which would shrink latents.

    beta1: of the mean. beta2: of the square. eps: added to the root of the square.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-15

    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer:
        every = _listed(groups)
        return torch.optim.Adam(
            every, betas=(self.beta1, self.beta2), eps=self.eps, fused=_on_cuda(every)
        )


@dataclass(frozen=True)
class SGD(Optimizer):
    """Plain gradient descent, with momentum if asked for.

    momentum: share of the last step that is kept.
    """

    momentum: float = 0.0

    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer:
        every = _listed(groups)
        return torch.optim.SGD(every, momentum=self.momentum, fused=_on_cuda(every))


def _listed(groups: Iterable[dict]) -> list[dict]:
    return [group | {"params": list(group["params"])} for group in groups]


def _on_cuda(groups: Iterable[dict]) -> bool | None:
    """True where all parameters are on CUDA: there a fused optimiser is one kernel, which can be told on the device not to move.
    Elsewhere it is left to torch."""
    return all(p.device.type == "cuda" for group in groups for p in group["params"]) or None
