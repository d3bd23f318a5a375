"""Scenes of the embedded world: attributes, random scenes, captions and renders."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OBJECTS = (
    "sphere",
    "cube",
    "cone",
    "cylinder",
    "torus",
    "pyramid",
    "mug",
    "mushroom",
    "snowman",
    "table",
    "chair",
    "duck",
    "car",
    "house",
)
#: Objects whose four views differ; view accuracy is measured on these.
ASYMMETRIC = ("mug", "snowman", "chair", "duck", "car", "house")
#: Objects whose two sides differ. A house has the same window on both.
SIDED = ("mug", "snowman", "chair", "duck", "car")

_COLOR_RGB = {
    "red": (0.86, 0.10, 0.10),
    "green": (0.12, 0.60, 0.16),
    "blue": (0.10, 0.22, 0.86),
    "yellow": (0.96, 0.86, 0.12),
    "orange": (0.98, 0.50, 0.05),
    "purple": (0.52, 0.12, 0.72),
    "pink": (0.98, 0.52, 0.70),
    "cyan": (0.15, 0.80, 0.86),
    "white": (0.95, 0.95, 0.95),
    "black": (0.09, 0.09, 0.10),
}
COLORS = tuple(_COLOR_RGB)
PATTERNS = ("plain", "striped", "checkered")

#: Of each background: its phrase in captions, the color at the top and that at the bottom.
_BACKGROUND_STYLES = {
    "sky": ("in the sky", (0.35, 0.56, 0.92), (0.72, 0.84, 0.98)),
    "grass": ("on grass", (0.46, 0.70, 0.36), (0.24, 0.48, 0.14)),
    "sand": ("on sand", (0.86, 0.76, 0.52), (0.72, 0.58, 0.34)),
    "night": ("at night", (0.03, 0.03, 0.12), (0.16, 0.12, 0.34)),
    "snow": ("in the snow", (0.84, 0.88, 0.95), (0.72, 0.78, 0.88)),
    "brick": ("by a brick wall", (0.56, 0.27, 0.20), (0.42, 0.18, 0.12)),
}
BACKGROUNDS = tuple(_BACKGROUND_STYLES)
#: Of each background its phrase in captions.
BACKGROUND_PHRASES = {name: phrase for name, (phrase, *_) in _BACKGROUND_STYLES.items()}
#: How some captions start.
PHOTO_PREFIX = "a photo of "
SKY_COLORS = np.array([top for _, top, _ in _BACKGROUND_STYLES.values()], np.float32)
GROUND_COLORS = np.array([bottom for *_, bottom in _BACKGROUND_STYLES.values()], np.float32)

VIEWS = ("front", "side", "back", "overhead")
#: Elevation in radians from which a view is called overhead (DreamFusion: 60 degrees).
OVERHEAD_ELEVATION = math.radians(55.0)

#: Where the front of an object points in an image of its side.
FACINGS = ("left", "right")

#: The words of each attribute, in the order of ``Scenes.labels``.
ATTRIBUTES = {
    "object": OBJECTS,
    "color": COLORS,
    "pattern": PATTERNS,
    "background": BACKGROUNDS,
    "view": VIEWS,
}

_RGB = np.array(list(_COLOR_RGB.values()), np.float32)
#: Second color of a pattern, and the one that white objects get instead.
_SECOND_RGB = np.array([0.97, 0.97, 0.97], np.float32)
_SECOND_RGB_ON_WHITE = np.array([0.30, 0.30, 0.32], np.float32)


@dataclass(frozen=True)
class Scenes:
    """N scenes, as arrays of shape ``[N]``.

    Attributes:
        object: index into ``OBJECTS``.
        color: index into ``COLORS``.
        pattern: index into ``PATTERNS``.
        background: index into ``BACKGROUNDS``.
        azimuth: azimuth of the camera in radians, 0 in front of the object.
        elevation: elevation of the camera in radians.
        distance: distance of the camera from the origin.
        brightness: factor on the colors of the background.
    """

    object: np.ndarray
    color: np.ndarray
    pattern: np.ndarray
    background: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray
    distance: np.ndarray
    brightness: np.ndarray

    def __len__(self) -> int:
        return len(self.object)

    def __getitem__(self, rows) -> Scenes:
        return Scenes(**{name: value[rows] for name, value in vars(self).items()})

    @property
    def view(self) -> np.ndarray:
        """Index into ``VIEWS``.

        Overhead from ``OVERHEAD_ELEVATION``; else by azimuth: front within 45 degrees, side
        within 135, back beyond.
        """
        angle = np.abs((self.azimuth + np.pi) % (2 * np.pi) - np.pi)
        by_azimuth = np.where(angle <= np.pi / 4, 0, np.where(angle <= 3 * np.pi / 4, 1, 2))
        return np.where(self.elevation >= OVERHEAD_ELEVATION, 3, by_azimuth)

    @property
    def asymmetric(self) -> np.ndarray:
        """Which scenes show an object whose views differ, ``[N]`` bool."""
        return np.isin(self.object, [OBJECTS.index(name) for name in ASYMMETRIC])

    @property
    def facing(self) -> np.ndarray:
        """Index into ``FACINGS``; it says something of scenes that ``shows_facing``."""
        return (self.azimuth < 0).astype(np.int64)

    @property
    def shows_facing(self) -> np.ndarray:
        """Which scenes show the side of an object whose two sides differ, ``[N]`` bool."""
        sided = np.isin(self.object, [OBJECTS.index(name) for name in SIDED])
        return sided & (self.view == VIEWS.index("side"))

    @property
    def shows_view(self) -> np.ndarray:
        """Which scenes look different from another view, ``[N]`` bool."""
        return self.asymmetric | (self.view == VIEWS.index("overhead"))

    def labels(self) -> np.ndarray:
        """Return the indices of object, color, pattern, background and view, ``[N, 5]`` int64."""
        columns = (self.object, self.color, self.pattern, self.background, self.view)
        return np.stack(columns, 1).astype(np.int64)


def is_held_out(obj: np.ndarray, color: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Return which combinations training never shows: a fixed tenth, by a hash of the words.

    Args:
        obj: indices into ``OBJECTS``, ``[N]``.
        color: indices into ``COLORS``, ``[N]``.
        pattern: indices into ``PATTERNS``, ``[N]``.
    """
    table = np.array(
        [
            [[zlib.crc32(f"{o} {c} {p}".encode()) % 10 == 0 for p in PATTERNS] for c in COLORS]
            for o in OBJECTS
        ]
    )
    return table[obj, color, pattern]


def random_scenes(n: int, rng: np.random.Generator, unseen: bool = False) -> Scenes:
    """Draw ``n`` scenes.

    Two azimuths in three lie near the four named views, and one scene in five is seen from
    overhead.

    Args:
        n: number of scenes.
        rng: source of all randomness.
        unseen: True: only combinations that are held out from training; False: only the others.
    """
    shape = (len(OBJECTS), len(COLORS), len(PATTERNS))
    triples = np.array(list(np.ndindex(shape)))
    triples = triples[is_held_out(*triples.T) == unseen]
    # objects are drawn evenly: the hold-out may leave one with fewer triples than another
    per_object = [triples[triples[:, 0] == o] for o in range(len(OBJECTS))]
    present = [o for o, rows in enumerate(per_object) if len(rows)]
    objects, fractions = rng.choice(present, n), rng.random(n)
    drawn = np.array(
        [
            per_object[o][int(fraction * len(per_object[o]))]
            for o, fraction in zip(objects, fractions, strict=True)
        ]
    ).reshape(n, 3)
    near = rng.integers(0, 4, n) * (np.pi / 2) + rng.normal(0, 0.2, n)
    azimuth = np.where(rng.random(n) < 0.67, near, rng.uniform(-np.pi, np.pi, n))
    overhead = rng.random(n) < 0.2
    elevation = np.where(
        overhead,
        rng.uniform(math.radians(58), math.radians(74), n),
        rng.uniform(math.radians(-2), math.radians(35), n),
    )
    return Scenes(
        object=drawn[:, 0],
        color=drawn[:, 1],
        pattern=drawn[:, 2],
        background=rng.integers(0, len(BACKGROUNDS), n),
        azimuth=(azimuth + np.pi) % (2 * np.pi) - np.pi,
        elevation=elevation,
        distance=rng.uniform(3.4, 3.8, n),
        brightness=rng.uniform(0.94, 1.06, n),
    )


def render_scenes(scenes: Scenes, size: int = 64) -> np.ndarray:
    """Render the scenes on as many threads as torch has.

    Args:
        scenes: N scenes.
        size: height and width in pixels.

    Returns:
        Images, uint8 ``[N, size, size, 3]``.
    """
    white = scenes.color == COLORS.index("white")
    first = _RGB[scenes.color]
    second = np.where(white[:, None], _SECOND_RGB_ON_WHITE, _SECOND_RGB)
    brightness = scenes.brightness[:, None].astype(np.float32)
    sky = SKY_COLORS[scenes.background] * brightness
    ground = GROUND_COLORS[scenes.background] * brightness
    return _render_with_colors(scenes, [first, second, sky, ground], size)


def object_masks(scenes: Scenes, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Where the object of each scene is seen, from renders before black and before white.

    Args:
        scenes: N scenes.
        size: height and width in pixels.

    Returns:
        Pixels that show something of the object, and pixels that show nothing else, bool
        ``[N, size, size]``. Those at its outline are in the first only.
    """
    black = np.zeros((len(scenes), 3))
    gray = np.full_like(black, 0.5)
    before_black, before_white = (
        _render_with_colors(scenes, [gray, gray, back, back], size) for back in (black, black + 1)
    )
    background = ((before_black == 0) & (before_white == 255)).all(-1)
    return ~background, (before_black == before_white).all(-1)


def _render_with_colors(scenes: Scenes, colors: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Render with given first and second color of the object, sky and ground, each ``[N, 3]``."""
    import numba  # imported late: only rendering needs it
    import torch

    from limbeck.world.sdf_shapes import trace_scenes

    black = scenes.color == COLORS.index("black")
    stacked = np.clip(np.stack(colors, 1), 0, 1).astype(np.float32)
    horizontal = np.cos(scenes.elevation)
    direction = np.stack(
        [
            np.sin(scenes.azimuth) * horizontal,
            np.sin(scenes.elevation),
            np.cos(scenes.azimuth) * horizontal,
        ],
        1,
    )
    eyes = direction * scenes.distance[:, None]
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        return trace_scenes(scenes.object, scenes.pattern, black, stacked, eyes, size)
    finally:  # numba and torch share OpenMP, and numba leaves it with all cores
        torch.set_num_threads(threads)


def caption(
    obj: str, color: str = "", pattern: str = "", background: str = "", view: str = ""
) -> str:
    """Return a caption in the world's grammar, e.g. ``a striped red mug on grass, side view``.

    Args:
        obj: one of ``OBJECTS``.
        color: one of ``COLORS``; "" leaves it out.
        pattern: one of ``PATTERNS``; "" leaves it out.
        background: one of ``BACKGROUNDS``; "" leaves it out.
        view: one of ``VIEWS``; "" leaves it out.
    """
    words = " ".join(word for word in (pattern, color, obj) if word)
    article = "an" if words[0] in "aeiou" else "a"
    place = f" {BACKGROUND_PHRASES[background]}" if background else ""
    return f"{article} {words}{place}" + (f", {view} view" if view else "")


def random_captions(scenes: Scenes, rng: np.random.Generator, full: float = 0.5) -> list[str]:
    """Return captions in which some attributes are dropped at random.

    The word *plain* appears half the time. View words are mostly dropped for objects that look
    alike from all views, except overhead.

    Args:
        scenes: N scenes.
        rng: source of all randomness.
        full: probability of a caption with every visible attribute.
    """
    draws = rng.random((len(scenes), 6))
    complete = draws[:, 5] < full
    keep_view = np.where(scenes.shows_view, complete | (draws[:, 3] < 0.7), draws[:, 3] < 0.2)
    return _random_captions(scenes, draws, complete, keep_view)


def group_captions(
    scenes: Scenes, group_size: int, rng: np.random.Generator, view_words: float, full: float = 0.5
) -> list[str]:
    """Return captions of groups of views, each with the same attributes dropped in all its views.

    Args:
        scenes: N scenes; each ``group_size`` that follow each other are views of one.
        group_size: views in a group.
        rng: source of all randomness.
        view_words: probability that the captions of a group name the views. Those of objects that
            look alike from all views name them in a fifth of these groups.
        full: probability that the captions of a group have every other visible attribute.
    """
    draws = rng.random((len(scenes) // group_size, 6)).repeat(group_size, 0)
    complete = draws[:, 5] < full
    share = np.where(scenes.asymmetric, view_words, 0.2 * view_words)
    return _random_captions(scenes, draws, complete, draws[:, 3] < share)


def _random_captions(
    scenes: Scenes, draws: np.ndarray, complete: np.ndarray, keep_view: np.ndarray
) -> list[str]:
    """Return captions from uniform draws ``[N, 6]``, complete ones with all but the view."""
    keep_color = complete | (draws[:, 0] < 0.9)
    keep_pattern = np.where(scenes.pattern == 0, draws[:, 1] < 0.5, complete | (draws[:, 1] < 0.93))
    keep_background = complete | (draws[:, 2] < 0.6)
    keep = np.stack([keep_color, keep_pattern, keep_background, keep_view], 1)
    texts = [_caption_of(*row) for row in zip(scenes.labels(), keep, strict=True)]
    return [
        PHOTO_PREFIX + text if draw < 0.1 else text
        for text, draw in zip(texts, draws[:, 4], strict=True)
    ]


def full_captions(scenes: Scenes, view_words: bool = True) -> list[str]:
    """Return captions that name every attribute, the view only where it makes a difference.

    Args:
        scenes: N scenes.
        view_words: whether to name the view.
    """
    keep = np.stack([*[np.ones(len(scenes), bool)] * 3, scenes.shows_view & view_words], 1)
    return [_caption_of(*row) for row in zip(scenes.labels(), keep, strict=True)]


def _caption_of(labels: np.ndarray, keep: np.ndarray) -> str:
    """Return the caption of one scene with the attributes to keep.

    Args:
        labels: a row of ``Scenes.labels``.
        keep: whether to name color, pattern, background and view, ``[4]`` bool.
    """
    obj, *others = (words[i] for words, i in zip(ATTRIBUTES.values(), labels, strict=True))
    return caption(obj, *(word if kept else "" for word, kept in zip(others, keep, strict=True)))
