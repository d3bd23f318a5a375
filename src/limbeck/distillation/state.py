"""State that a method keeps between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jaxtyping import Int
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext


class State(Protocol):
    """State of a method, saved in checkpoints as named tensors."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what ``tensors`` returned."""
        ...


class Stateless:
    """State of a method that needs none."""

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            raise ValueError(
                f"this method keeps no state, but the checkpoint holds {sorted(tensors)[:3]}"
            )


class PromptEmbeddings(Stateless):
    """Encoded texts that a method needs besides the prompts, one row per prompt.

    They are encoded anew from the texts, so checkpoints hold nothing.

    Args:
        prior: prior that encodes the texts.
        setup: context of the run.
        texts: sequences of texts, each with one text per prompt.

    Raises:
        ValueError: if a sequence does not hold one text per prompt, or if the prior cannot encode
            a text.
    """

    def __init__(self, prior: Prior, setup: SetupContext, *texts: Sequence[str]):
        for sequence in texts:
            if len(sequence) != setup.num_prompts:
                raise ValueError(
                    f"one text is needed for each of the {setup.num_prompts} prompts, "
                    f"not {len(sequence)}"
                )
        self._particles_per_prompt = setup.particles // setup.num_prompts
        try:
            self._conditions = [prior.condition(sequence) for sequence in texts]
        except ValueError as error:
            raise ValueError(
                f"a text of the method: {error}; change the method's own text, or leave it empty"
            ) from error

    def for_particles(self, particle: Int[Tensor, "b"]) -> list[Condition]:
        """The condition of each sequence of texts, for the prompts of ``particle`` (``[B]``)."""
        prompt = particle // self._particles_per_prompt
        return [c[to_device(prompt, c.data.device)] for c in self._conditions]
