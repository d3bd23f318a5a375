"""All captions of one kind, for training that needs texts and no images."""

from __future__ import annotations

import itertools

import numpy as np

from limbeck.world.scene import (
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    COLORS,
    OBJECTS,
    PATTERNS,
    caption,
    is_held_out,
)


def combination_captions(unseen: bool = False) -> list[str]:
    """Return a caption of every object, color and pattern on every background and on none named.

    Plain objects have no word for their pattern.

    Args:
        unseen: True: only combinations that are held out from training; False: only the others.
    """
    found = []
    for o, c, p in np.ndindex(len(OBJECTS), len(COLORS), len(PATTERNS)):
        if bool(is_held_out(np.array(o), np.array(c), np.array(p))) != unseen:
            continue
        pattern = "" if PATTERNS[p] == "plain" else PATTERNS[p]
        for background in ("", *BACKGROUNDS):
            found.append(caption(OBJECTS[o], COLORS[c], pattern, background))
    return found


def spread_captions(count: int, unseen: bool = False) -> list[str]:
    """Return captions that take turns in their objects, each on a named background.

    Args:
        count: number of captions, at most as many as there are.
        unseen: as of ``combination_captions``.

    Raises:
        ValueError: if there are not so many.
    """
    named = [text for text in combination_captions(unseen) if _has_background(text)]
    by_object = [[text for text in named if f" {name}" in f" {text}"] for name in OBJECTS]
    rng = np.random.default_rng(0)
    shuffled = [[texts[i] for i in rng.permutation(len(texts))] for texts in by_object]
    turns = [text for row in itertools.zip_longest(*shuffled) for text in row if text is not None]
    if count > len(turns):
        raise ValueError(f"there are {len(turns)} captions, not {count}")
    return turns[:count]


def _has_background(text: str) -> bool:
    return any(text.endswith(phrase) for phrase in BACKGROUND_PHRASES.values())
