"""Agreement of images with prompts, by a word list and the world's evaluator."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jaxtyping import Int
from torch import Tensor

from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import ATTRIBUTES, OBJECTS


def agreement(
    verdicts: Int[Tensor, "n 5"], prompts: Sequence[str], ignored: Collection[str] = ()
) -> dict[str, float]:
    """Share of images whose verdict equals what their prompt says, by attribute.

    Args:
        verdicts: what ``Evaluator.judge`` returns, in the order of ``ATTRIBUTES``.
        prompts: one prompt per image.
        ignored: attributes that are not judged, also not in ``all``.

    Returns:
        For every attribute that a prompt names, the share over the images whose prompts name it.
        ``all``: every named attribute is correct. ``rejected``: the evaluator sees none of its
        objects, which counts as a wrong object. Range [0, 1]. Sample size: any; the share of a
        rare attribute is over few images. Our own measure, with the evaluator of the world.
    """
    correct: dict[str, list[bool]] = {}
    for row, prompt in zip(verdicts.tolist(), prompts, strict=True):
        named = judgeable_attributes(prompt)
        if not named:
            continue
        verdict = dict(zip(ATTRIBUTES, row, strict=True))
        hits = {name: verdict[name] == i for name, i in named.items() if name not in ignored}
        hits |= {"all": all(hits.values()), "rejected": verdict["object"] >= len(OBJECTS)}
        for name, hit in hits.items():
            correct.setdefault(name, []).append(hit)
    order = [*ATTRIBUTES, "all", "rejected"]
    return {name: sum(correct[name]) / len(correct[name]) for name in order if name in correct}
