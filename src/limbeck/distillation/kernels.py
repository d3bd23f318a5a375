"""A Gaussian kernel with median bandwidth, for methods whose particles interact."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.state import Stateless
from limbeck.system.random import occurrences


class PromptGroups(Stateless):
    """State of a method whose particles interact within their prompt: which prompt each has.

    Args:
        setup: context of the run.
    """

    def __init__(self, setup: SetupContext):
        setup.require_prompts_of_particles("this method groups samples by")
        self._prompt_index, self._fresh_samples = setup.prompt_index, setup.fresh_samples

    def rows_by_prompt(
        self, particle: Int[Tensor, "b"], device: torch.device
    ) -> list[Int[Tensor, "n"]]:
        """Group rows by prompt, and views of a particle by their number among its rows.

        So particles interact, and not the views of one of them. Of new samples in every step all
        rows of a prompt are one group.

        Args:
            particle: particle index of each row, on the CPU, so that no device sync is needed.
            device: device of the result.

        Returns:
            Row indices of each group among the rows, in the order of prompts and views.
        """
        particle = particle.cpu()
        prompt = self._prompt_index(particle)
        view = torch.zeros_like(prompt) if self._fresh_samples else occurrences(particle)
        groups = prompt * (int(view.max()) + 1) + view
        return [to_device((groups == g).nonzero().flatten(), device) for g in groups.unique()]


def log_kernel(f: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n n"], Float[Tensor, ""]]:
    """log k(f_i, f_j) = -|f_i - f_j|^2 / h with the median bandwidth h.

    h is the median of |f_i - f_j|^2 over pairs i < j, divided by log n, so that sum_j k(f_i, f_j)
    is about 1 over the others. If more than half of the pairs coincide, h is 1.

    Args:
        f: features of n particles.

    Returns:
        log k and h.

    References:
        Liu & Wang 2016, arXiv 1608.04471, section 5.
    """
    n = len(f)
    if n == 1:
        return f.new_zeros(1, 1), f.new_ones(())
    square = torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist").square()
    pairs = square[*torch.triu_indices(n, n, 1, device=f.device)]
    # the median; quantile() is limited to 2^24 values
    below, above = (pairs.kthvalue(k).values for k in ((len(pairs) + 1) // 2, len(pairs) // 2 + 1))
    h = (below + above) / 2 / math.log(n)
    h = torch.where(h > 0, h, torch.ones_like(h))
    return -square / h, h


def repulsion(
    weight: Float[Tensor, "n n"], f: Float[Tensor, "n d"], h: Float[Tensor, ""]
) -> Float[Tensor, "n d"]:
    """sum_j weight_ij grad_{f_i} log k(f_i, f_j), h held constant; its descent repels particles.

    Args:
        weight: weight of each pair.
        f: features of n particles.
        h: bandwidth of the kernel.
    """
    return -2 / h * (weight.sum(1, keepdim=True) * f - weight @ f)


def stein_direction(f: Float[Tensor, "n d"], score: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """(1/N) sum_j [k(f_j, f_i) score_j - grad_{f_j} k(f_j, f_i)], the direction of SVGD.

    Args:
        f: N particles that share a target.
        score: what each descends by itself.

    References:
        Liu & Wang 2016, arXiv 1608.04471, eq. 8.
    """
    log_k, h = log_kernel(f)
    k = log_k.exp()
    # k depends on f_i - f_j alone: minus the gradient in f_j is the gradient in f_i
    return (k @ score + repulsion(k, f, h)) / len(f)
