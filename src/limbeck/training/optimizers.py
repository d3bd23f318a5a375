"""Optimizers of the particles."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from limbeck.config.lazy import defined_classes
from limbeck.system.optimizer_state import can_fuse


@dataclass(frozen=True)
class Optimizer(abc.ABC):
    """Optimizer of the particles. The peak learning rate belongs to the representation.

    Attributes:
        decay_start: fraction of training after which the learning rate decays linearly to 0, in
            [0, 1]. 1: constant learning rate.
    """

    decay_start: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.decay_start <= 1:
            raise ValueError(f"decay_start must be in [0, 1], not {self.decay_start}")

    @abc.abstractmethod
    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer:
        """Return a torch optimizer of parameter groups."""

    def lr_factor(self, step: int, steps: int) -> float:
        """Return the factor of every learning rate.

        Args:
            step: number of steps done.
            steps: number of steps of the whole run.
        """
        progress = step / max(steps, 1)
        if progress <= self.decay_start:
            return 1.0
        return (1 - progress) / (1 - self.decay_start)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam without weight decay, which would shrink latents.

    Attributes:
        decay_start: fraction of training after which the learning rate decays linearly to 0, in
            [0, 1]. 1: constant learning rate, whose last steps leave noise in the image.
        beta1: decay rate of the running mean of gradients.
        beta2: decay rate of the running mean of squared gradients.
        eps: added to the root of the squared mean.
    """

    decay_start: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = field(default=1e-15, metadata={"minimum": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")

    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer:
        groups = _as_lists(groups)
        betas = (self.beta1, self.beta2)
        fused = can_fuse(p for group in groups for p in group["params"])
        return torch.optim.Adam(groups, betas=betas, eps=self.eps, fused=fused)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum.

    Attributes:
        momentum: fraction of the previous update that is kept. 0: plain gradient descent.
    """

    momentum: float = field(default=0.0, metadata={"minimum": 0})

    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer:
        groups = _as_lists(groups)
        # on a CPU, torch's fused SGD fails where some parameters have no momentum yet
        on_cuda = all(p.device.type == "cuda" for group in groups for p in group["params"])
        return torch.optim.SGD(groups, momentum=self.momentum, fused=on_cuda or None)


def _as_lists(groups: Iterable[dict]) -> list[dict]:
    return [group | {"params": list(group["params"])} for group in groups]


def __dir__() -> list[str]:
    return defined_classes(__name__)
