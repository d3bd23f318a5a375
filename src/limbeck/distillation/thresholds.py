"""A threshold per particle that accepts or refuses the draws of a step."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.tensors import to_device
from limbeck.distillation.state import Stateless

_FALL = 0.99  #: of a threshold at each refusal


class Threshold(Stateless):
    """The threshold of each particle, which falls whenever it refuses a draw.

    Args:
        particles: number of particles.
        tau: threshold of the first draw.
        device: where the particles are.
    """

    def __init__(self, particles: int, tau: float, device: torch.device):
        self.tau = torch.full((particles,), tau, dtype=torch.float64, device=device)

    def tensors(self) -> dict[str, Tensor]:
        return {"tau": self.tau}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.tau = tensors["tau"].to(self.tau)

    def accept(self, particle: Int[Tensor, "b"], size: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """1 for rows whose size reaches the threshold, 0 for others, whose threshold falls.

        Args:
            particle: particle of each row, on the CPU.
            size: what is compared with the threshold.
        """
        index = to_device(particle.cpu(), self.tau.device)
        accepted = (size.double() >= self.tau[index]).double()
        self.tau[index] = self.tau[index] * (accepted + _FALL * (1 - accepted))
        return accepted
