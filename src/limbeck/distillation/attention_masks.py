"""Thresholds and masks of the particles of an edit, masks made of the attention to words.

References:
    Chinchuthakun et al. 2025, arXiv 2503.11054 (LUSD).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.diffusion.attention_maps import AttentionMaps
from limbeck.diffusion.guidance import required_conditions
from limbeck.diffusion.prior import AttentionMapPrior, Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.thresholds import Threshold
from limbeck.system.notices import notify
from limbeck.system.processes import is_divided, join_rows, own_rows

_MOMENTUM = 0.1  #: of a new map in the mask


def word_map(
    maps: AttentionMaps, words: Bool[Tensor, "r l"], size: tuple[int, int]
) -> Float[Tensor, "r h w"]:
    """Map of where the words are, in [0, 1]: min-max of c = A_s mean_W A_c.

    A_c is enlarged to the positions of A_s and c to those of the latent, both bicubically. A row
    without words, or whose c is the same everywhere, has a map of ones.

    Args:
        maps: attention probabilities of the rows.
        words: tokens W of each row.
        size: height and width of the latent.
    """
    share = words / words.sum(1, keepdim=True).clamp_min(1)
    cross = torch.einsum("rl,rlyx->ryx", share, maps.cross_attention)[:, None]
    cross = F.interpolate(cross, maps.self_size, mode="bicubic").flatten(2).mT
    c = (maps.self_attention @ cross).mT.unflatten(2, maps.self_size)
    c = F.interpolate(c, size, mode="bicubic")[:, 0]
    low, high = c.amin((1, 2), keepdim=True), c.amax((1, 2), keepdim=True)
    return torch.where(high > low, (c - low) / (high - low), 1.0)


class Unmasked(Threshold):
    """Threshold of each particle, and a mask M that is 1 everywhere."""

    def capture(self, prior: Prior) -> AbstractContextManager[Sequence[AttentionMaps]]:
        """Context in which a network call leaves what ``add_maps`` takes."""
        return nullcontext(())

    def mask_of(self, particle: Int[Tensor, "b"], b: float) -> Float[Tensor, "b 1 h w"] | float:
        """M_k = b M + 1 - b of the rows.

        Args:
            particle: particle of each row, on the CPU.
            b: share of M, in [0, 1].
        """
        return 1.0

    def add_maps(
        self, inputs: StepInputs, accepted: Float[Tensor, "b"], maps: Sequence[AttentionMaps]
    ) -> None:
        """M <- .9 M + .1 map of the words, for the next step of rows whose draw was accepted.

        The first map of a particle is its first M.

        Args:
            inputs: the current step.
            accepted: 1 for rows whose draw was accepted, 0 for others.
            maps: what was captured of a prediction with guidance 1, of this process's rows.
        """


class Masked(Unmasked):
    """Threshold and mask M of each particle. M is 1 before its first accepted draw.

    Args:
        words: tokens W of each particle.
        tau: threshold of the first draw.
        size: height and width of the latent.
    """

    def __init__(self, words: Bool[Tensor, "n l"], tau: float, size: tuple[int, int]):
        super().__init__(len(words), tau, words.device)
        self._words, self._size = words, size
        self.mask = torch.ones(len(words), *size, device=words.device)
        self.has_map = torch.zeros(len(words), dtype=torch.bool, device=words.device)

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), "mask": self.mask, "has_map": self.has_map}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        self.mask, self.has_map = tensors["mask"].to(self.mask), tensors["has_map"].to(self.has_map)

    def capture(self, prior: Prior) -> AbstractContextManager[Sequence[AttentionMaps]]:
        assert isinstance(prior, AttentionMapPrior)  # checked by masked_if_possible
        return prior.capture_attention_maps()

    def mask_of(self, particle: Int[Tensor, "b"], b: float) -> Float[Tensor, "b 1 h w"] | float:
        mask = self.mask[to_device(particle, self.mask.device)][:, None]
        return 1 - b * (1 - mask)  # 1 where M is 1, without rounding

    def add_maps(
        self, inputs: StepInputs, accepted: Float[Tensor, "b"], maps: Sequence[AttentionMaps]
    ) -> None:
        index, count = to_device(inputs.particle, self.mask.device), len(inputs.particle)
        # the call has the rows of one condition after those of another
        needed = required_conditions(inputs.conditions, 1.0)
        start = [condition is inputs.conditions.pos for condition in needed].index(True)
        own = own_rows(count) if is_divided(count) else slice(0, count)
        length = own.stop - own.start
        found = word_map(
            maps[0][slice(start * length, (start + 1) * length)],
            self._words[index[own]],
            self._size,
        )
        if is_divided(count):
            found = join_rows(found, count)
        before, is_accepted = self.mask[index], accepted > 0
        mean = before.lerp(found, _MOMENTUM)
        moved = torch.where(self.has_map[index][:, None, None], mean, found)
        self.mask[index] = torch.where(is_accepted[:, None, None], moved, before)
        self.has_map[index] = self.has_map[index] | is_accepted


def masked_if_possible(prior: Prior, setup: SetupContext, tau: float) -> Unmasked:
    """Return the state of a method whose mask is made of attention to the words that change.

    W are the tokens of the prompt that are not in the source prompt. For a model whose attention
    cannot be read M is 1, with a notice.

    Args:
        prior: the model.
        setup: context of the run, an edit.
        tau: threshold of the first draw.
    """
    if not isinstance(prior, AttentionMapPrior):
        notify(
            "the mask is 1 everywhere, as with --method.no-attention-mask: "
            f"{type(prior).__name__} has no maps of attention to words"
        )
        return Unmasked(setup.particles, tau, setup.x0.device)
    changed = prior.changed_tokens(setup.prompts, setup.source_prompts)
    prompt = setup.prompt_index(torch.arange(setup.particles))
    height, width = setup.x0.shape[2:]
    return Masked(changed[to_device(prompt, changed.device)], tau, (height, width))
