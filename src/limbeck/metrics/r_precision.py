"""R-Precision: whether a picture of a prompt goes back to that prompt among others (Park et al. 2021; Dream Fields, Jain et al.
2022; DreamFusion, Poole et al. 2022, Table 1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import BACKGROUNDS, COLOURS, OBJECTS, PATTERNS, caption


def r_precision(scores: Float[Tensor, "n t"], own: int) -> float:
    """Share of pictures whose ``own`` text scores higher than every other; a tie is no hit. Range [0, 1], no unit.

    scores: of every picture against every text, of any scale. ValueError with fewer than two texts, where nothing can be mistaken.
    """
    if scores.shape[1] < 2:
        raise ValueError(
            "R-Precision needs texts to be mistaken for: there is only the prompt itself"
        )
    rest = torch.cat([scores[:, :own], scores[:, own + 1 :]], 1)
    return (scores[:, own] > rest.amax(1)).float().mean().item()


def combinations(prompt: str) -> tuple[tuple[int, int | None], ...]:
    """(object, colour) of a prompt of the world, first, and of all that it is told apart from: the other objects in every colour if
    it names one, else the other objects. Nothing where it names no object."""
    told = judgeable_attributes(prompt)
    if not told:
        return ()
    own = (told["object"], told.get("colour"))
    colours: list[int | None] = list(range(len(COLOURS))) if own[1] is not None else [None]
    return (own, *(pair for o in range(len(OBJECTS)) for c in colours if (pair := (o, c)) != own))


def distractors(prompt: str) -> list[str]:
    """The texts of ``combinations`` but the first, each saying of pattern and place what ``prompt`` says."""
    told = judgeable_attributes(prompt)
    pattern = PATTERNS[told["pattern"]] if "pattern" in told else ""
    place = BACKGROUNDS[told["background"]] if "background" in told else ""
    return [
        caption(OBJECTS[o], COLOURS[c] if c is not None else "", pattern, place)
        for o, c in combinations(prompt)[1:]
    ]


def seen_scores(
    logits: dict[str, Tensor], prompt: str, geometry: bool = False
) -> Float[Tensor, "n t"]:
    """Log-probability of each of the ``combinations`` by the evaluator's ``logits``, the prompt's own in column 0; the class *none
    of them* is not among them. ``geometry``: of pictures without colour, by the object alone."""
    pairs = combinations(prompt)
    objects = logits["object"][:, : len(OBJECTS)].log_softmax(1)
    if geometry or pairs[0][1] is None:
        own = pairs[0][0]
        return objects[:, [own, *(o for o in range(len(OBJECTS)) if o != own)]]
    colours = logits["colour"].log_softmax(1)
    return objects[:, [o for o, _ in pairs]] + colours[:, [c for _, c in pairs]]
