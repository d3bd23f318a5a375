"""Does a picture show what its prompt says? The prompt is read by a word list, the picture by the world's evaluator."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor

from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import ATTRIBUTES, OBJECTS


def agreement(verdicts: Int[Tensor, "n 5"], prompts: Sequence[str]) -> dict[str, float]:
    """Share of pictures whose verdict equals what their prompt says, by attribute; attributes never said are left out.

    verdicts: what ``Evaluator.judge`` answers, in the order of ``ATTRIBUTES``; prompts: one per picture. Every share is over the
    pictures whose prompt says that attribute. ``all``: every said attribute is right. ``rejected``: the evaluator sees none of its
    objects, which counts as a wrong object. Range [0, 1], no unit.
    """
    right: dict[str, list[bool]] = {}
    for row, prompt in zip(verdicts.tolist(), prompts, strict=True):
        told = judgeable_attributes(prompt)
        if not told:
            continue
        seen = dict(zip(ATTRIBUTES, row, strict=True))
        hits = {name: seen[name] == i for name, i in told.items()}
        for name, hit in {
            **hits,
            "all": all(hits.values()),
            "rejected": seen["object"] >= len(OBJECTS),
        }.items():
            right.setdefault(name, []).append(hit)
    order = [*ATTRIBUTES, "all", "rejected"]
    return {name: sum(right[name]) / len(right[name]) for name in order if name in right}
