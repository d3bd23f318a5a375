"""State that a method keeps between steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Protocol

from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions, same_rows
from limbeck.diffusion.prior import NovelViewPrior, Prior
from limbeck.diffusion.prompts import ExtendedPrompt, extend_prompt
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext, StepInputs


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
    """Encoded texts that a method needs besides the prompts, one row per prompt, or per view of it.

    They are encoded anew from the texts, so checkpoints hold nothing.

    Args:
        prior: prior that encodes the texts.
        setup: context of the run.
        texts: sequences of texts, each with one text per prompt, or all of them with the
            ``texts_by_view`` of each, those of a prompt next to each other. A text encoder must
            read all of a text, but may cut the prompt of an ``ExtendedPrompt``.

    Raises:
        ValueError: if a sequence has another length, if the prior cannot encode a text, or if two
            texts of a prompt differ and are the same to the prior.
    """

    def __init__(self, prior: Prior, setup: SetupContext, *texts: Sequence[str]):
        if texts:
            setup.require_prompts_of_particles("this method adds texts to")
        if texts and isinstance(prior, NovelViewPrior):
            raise ValueError(
                "this method adds texts to the prompts, but this model reads no text: use another, "
                "such as --method sds"
            )
        for sequence in texts:
            views = len(setup.texts_by_view(""))
            if len(sequence) not in (setup.num_prompts, setup.num_prompts * views):
                raise ValueError(
                    f"one text is needed for each of the {setup.num_prompts} prompts, "
                    f"not {len(sequence)}"
                )
        self._num_prompts = setup.num_prompts
        self._particles_per_prompt = setup.particles // setup.num_prompts
        whole = [[_uncut(text) for text in sequence] for sequence in texts]
        try:
            self._conditions = [prior.condition(sequence) for sequence in whole]
            _check_distinct(self._conditions, whole)
        except ValueError as error:
            raise ValueError(
                f"a text of the method: {error}; change the method's own text, or leave it empty"
            ) from error

    def for_rows(self, inputs: StepInputs) -> list[Condition]:
        """The condition of each sequence of texts, for the prompts and views of a step's rows."""
        prompt, views, found = inputs.particle // self._particles_per_prompt, inputs.views, []
        for condition in self._conditions:
            rows = to_device(prompt, condition.data.device)
            if views is not None and len(condition) == self._num_prompts * views.count:
                found.append(views.select(condition, rows))
            else:
                found.append(condition[rows])
        return [condition.of_renders(inputs.conditions.pos) for condition in found]

    def transition(self, inputs: StepInputs) -> Conditions:
        """Conditions of the way from the first sequence of texts, ``null``, to the last, ``pos``.

        Both texts are beside the image that the prompt is shown, so that only the texts differ; the
        source of an edit is beside none. With one sequence the way starts at the empty prompt.

        Args:
            inputs: the current step.
        """
        y, (*sources, target) = inputs.conditions, self.for_rows(inputs)
        shown = y.pos if inputs.source is None else y.unconditional
        source = sources[0].with_image_prompt_of(shown) if sources else y.unconditional
        return replace(y, pos=target.with_image_prompt_of(y.pos), null=source)


def _uncut(text: str) -> ExtendedPrompt:
    """The text as one that no encoder may cut, unless it says what may be cut."""
    return text if isinstance(text, ExtendedPrompt) else extend_prompt("", text)


def _check_distinct(
    conditions: Sequence[Condition], texts: Sequence[Sequence[ExtendedPrompt]]
) -> None:
    """Raise ValueError if two texts of one prompt differ and their conditions do not."""
    for (a, first), (b, second) in combinations(zip(conditions, texts, strict=True), 2):
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            if one != other and same_rows(a[i : i + 1], b[i : i + 1]):
                raise ValueError(f"{one!r} and {other!r} are the same to this model")
