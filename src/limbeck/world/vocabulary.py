"""Vocabulary of the embedded world: the words of its captions."""

from __future__ import annotations

from limbeck.diffusion.vocabulary import Vocabulary, words_of
from limbeck.world.scene import (
    BACKGROUND_PHRASES,
    BACKGROUNDS,
    COLORS,
    OBJECTS,
    PATTERNS,
    PHOTO_PREFIX,
    VIEWS,
    caption,
)


def world_vocabulary() -> Vocabulary:
    """The words of all captions in the grammar of ``scene.caption``."""
    texts = [
        caption(obj, color, pattern, background, view)
        for obj in OBJECTS
        for color, pattern in (*((color, "") for color in COLORS), *(("", p) for p in PATTERNS))
        for background, view in (*((b, "") for b in BACKGROUNDS), *(("", v) for v in VIEWS))
    ]
    # without color and pattern the object decides the article: "an orange mug", "a mug"
    texts += [PHOTO_PREFIX + caption(obj) for obj in OBJECTS]
    return Vocabulary(
        tuple(words_of(" ".join(texts))),
        (
            ("objects", OBJECTS),
            ("colors", COLORS),
            ("patterns", PATTERNS),
            ("places", tuple(BACKGROUND_PHRASES.values())),
            ("views", tuple(f"{view} view" for view in VIEWS)),
        ),
        "objects",
    )
