"""The state a method keeps between steps."""

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
    """What a method remembers between steps, as named tensors for the checkpoint."""

    def tensors(self) -> dict[str, Tensor]: ...

    def load(self, tensors: dict[str, Tensor]) -> None: ...


class Stateless:
    """The state of a method that remembers nothing."""

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            raise ValueError(
                f"this method keeps no state, but the checkpoint holds {sorted(tensors)[:3]}"
            )


class PromptEmbeddings(Stateless):
    """What a method says beside the prompts, one row per prompt; made anew from the texts, so nothing is remembered."""

    def __init__(self, prior: Prior, start: SetupContext, *texts: Sequence[str]):
        for said in texts:
            if len(said) != start.num_prompts:
                raise ValueError(
                    f"one text is needed for each of the {start.num_prompts} prompts, not {len(said)}"
                )
        self._per = start.particles // start.num_prompts
        try:
            self._said = [prior.condition(said) for said in texts]
        except ValueError as error:
            raise ValueError(
                f"a text of the method: {error}; change the method's own text, or leave it empty"
            ) from error

    def for_particles(self, view: Int[Tensor, "b"]) -> list[Condition]:
        """The rows of particles, of each of the texts."""
        return [said[to_device(view // self._per, said.data.device)] for said in self._said]
