"""Representations whose particles have named tensors of their own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.representations.base import Representation


class ParticleParameters(Representation):
    """A representation of named tensors, one of each name per particle.

    Separate tensors keep the optimizer state of particles that are not drawn.

    Args:
        initial: initial values of all N particles by name, ``[N, ...]``.
        lrs: peak learning rates by name.
    """

    def __init__(self, initial: Mapping[str, Float[Tensor, "n ..."]], lrs: Mapping[str, float]):
        super().__init__()
        self.params = nn.ParameterDict(
            {name: nn.ParameterList(value.unbind(0)) for name, value in initial.items()}
        )
        self.lrs = dict(lrs)

    def gather(self, name: str, particle: Int[Tensor, "b"]) -> Float[Tensor, "b ..."]:
        """Stack the tensors of one name.

        Args:
            name: name of the tensor.
            particle: particle of each row.
        """
        return torch.stack([self.params[name][i] for i in particle.tolist()])

    def param_groups(self) -> list[dict]:
        return [
            {"params": list(tensors), "lr": self.lrs[name]} for name, tensors in self.params.items()
        ]

    def repeat(self, num_repeats: int) -> None:
        """Replace every particle by ``num_repeats`` copies of it."""
        for name, tensors in self.params.items():
            self.params[name] = nn.ParameterList(
                p.detach().clone() for p in tensors for _ in range(num_repeats)
            )
