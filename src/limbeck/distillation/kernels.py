"""How close particles of a prompt are: a Gaussian kernel whose width follows the particles, for methods that let them interact."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.state import Stateless


class PromptGroups(Stateless):
    """The state of a method whose particles interact within their prompt: nothing but which particle belongs to which."""

    def __init__(self, start: SetupContext):
        self._prompt_of = start.prompt_of

    def groups(self, view: Int[Tensor, "b"], device: torch.device) -> list[Int[Tensor, "n"]]:
        """The rows of each prompt that was drawn, in order, on ``device``."""
        prompts = self._prompt_of(view.cpu())  # the loop draws on the CPU: nothing is waited for
        return [to_device((prompts == p).nonzero().flatten(), device) for p in prompts.unique()]


def log_kernel(f: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n n"], Float[Tensor, ""]]:
    """log k(f_i, f_j) = -|f_i - f_j|^2 / h, and h.

    h is the median of |f_i - f_j|^2 over pairs i < j, divided by log n: then a particle's closeness to all others adds up to about
    1 (Liu & Wang 2016, section 5). Where more than half of the pairs are in one place there is no width to tell by, and h is 1.
    """
    n = len(f)
    if n == 1:
        return f.new_zeros(1, 1), f.new_ones(())
    square = torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist").square()
    h = square[*torch.triu_indices(n, n, 1, device=f.device)].quantile(0.5) / math.log(n)
    h = torch.where(h > 0, h, torch.ones_like(h))
    return -square / h, h


def repulsion(
    weight: Float[Tensor, "n n"], f: Float[Tensor, "n d"], h: Float[Tensor, ""]
) -> Float[Tensor, "n d"]:
    """sum_j weight_ij grad_{f_i} log k(f_i, f_j), h taken as given; descending it leads away from the others."""
    return -2 / h * (weight.sum(1, keepdim=True) * f - weight @ f)
