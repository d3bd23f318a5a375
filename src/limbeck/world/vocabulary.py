"""Vocabulary of the embedded world and of models trained like it: the words of their captions."""

from __future__ import annotations

from pathlib import Path

from limbeck.diffusion.vocabulary import (
    Vocabulary,
    caption_vocabulary,
    read_vocabulary,
    words_of,
)
from limbeck.world.render_cache import load_captions
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


def training_vocabulary(out: Path, data: str, init_from: Path | None = None) -> Vocabulary:
    """The words that a training teaches.

    Args:
        out: folder of the training, whose ``train/`` holds the captions.
        data: what it trains on, world or images.
        init_from: pipeline folder of the model that it started from, whose words it knows too.
    """
    if data == "world":
        return world_vocabulary()
    captions = [text for variant in load_captions(out / "train", 5) for text in variant]
    before = read_vocabulary(init_from) if init_from is not None else None
    return caption_vocabulary([*captions, *(before.words if before is not None else ())])
