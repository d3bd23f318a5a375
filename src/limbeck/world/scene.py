"""What the world holds: objects, colours, patterns, backgrounds and views; scenes drawn by seed; their captions."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

OBJECTS = ("sphere", "cube", "cone", "cylinder", "torus", "pyramid", "mug", "mushroom", "snowman", "table", "chair",
           "duck", "car", "house")  # fmt: skip
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "pink", "cyan", "white", "black")
PATTERNS = ("plain", "striped", "checkered")
BACKGROUNDS = ("sky", "grass", "sand", "night", "snow", "brick")
VIEWS = ("front", "side", "back", "overhead")
#: objects whose four views differ; the view figure is measured over these
ASYMMETRIC = ("mug", "snowman", "chair", "duck", "car", "house")
ATTRIBUTES = {
    "object": OBJECTS,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "background": BACKGROUNDS,
    "view": VIEWS,
}
OVERHEAD = math.radians(
    55.0
)  #: elevation from which a view is called overhead (DreamFusion says 60)

PLACES = {"sky": "in the sky", "grass": "on grass", "sand": "on sand", "night": "at night", "snow": "in the snow",
          "brick": "by a brick wall"}  # fmt: skip
_RGB = np.array(
    [[.86, .10, .10], [.12, .60, .16], [.10, .22, .86], [.96, .86, .12], [.98, .50, .05], [.52, .12, .72],
     [.98, .52, .70], [.15, .80, .86], [.95, .95, .95], [.09, .09, .10]], np.float32)  # fmt: skip
_SECOND = np.array([0.97, 0.97, 0.97], np.float32)
_SECOND_OF_WHITE = np.array([0.30, 0.30, 0.32], np.float32)
SKY = np.array(
    [[.35, .56, .92], [.46, .70, .36], [.86, .76, .52], [.03, .03, .12], [.84, .88, .95], [.56, .27, .20]],
    np.float32)  # fmt: skip
GROUND = np.array(
    [[.72, .84, .98], [.24, .48, .14], [.72, .58, .34], [.16, .12, .34], [.72, .78, .88], [.42, .18, .12]],
    np.float32)  # fmt: skip


@dataclass(frozen=True)
class Scenes:
    """N scenes: attribute indices ``[N]``, camera azimuth and elevation in radians ``[N]``, distance ``[N]``, brightness
    ``[N]``."""

    object: np.ndarray
    colour: np.ndarray
    pattern: np.ndarray
    background: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray
    distance: np.ndarray
    tint: np.ndarray

    def __len__(self) -> int:
        return len(self.object)

    def __getitem__(self, rows) -> Scenes:
        return Scenes(**{name: value[rows] for name, value in vars(self).items()})

    @property
    def view(self) -> np.ndarray:
        """Index into ``VIEWS``: overhead above ``OVERHEAD``; else by azimuth, front within 45 degrees, side to 135."""
        side = np.abs((self.azimuth + np.pi) % (2 * np.pi) - np.pi)
        around = np.where(side <= np.pi / 4, 0, np.where(side <= 3 * np.pi / 4, 1, 2))
        return np.where(self.elevation >= OVERHEAD, 3, around)

    @property
    def asymmetric(self) -> np.ndarray:
        """Which scenes show an object whose views differ, ``[N]`` bool."""
        return np.isin(self.object, [OBJECTS.index(name) for name in ASYMMETRIC])

    def labels(self) -> np.ndarray:
        """``[N, 5]`` int64: object, colour, pattern, background, view."""
        return np.stack(
            [self.object, self.colour, self.pattern, self.background, self.view], 1
        ).astype(np.int64)


def held_out(obj, colour, pattern) -> np.ndarray:
    """Which (object, colour, pattern) triples training never shows: a fixed tenth, by hash of the words."""
    table = np.array(
        [
            [[zlib.crc32(f"{o} {c} {p}".encode()) % 10 == 0 for p in PATTERNS] for c in COLOURS]
            for o in OBJECTS
        ]
    )
    return table[obj, colour, pattern]


def random_scenes(n: int, rng: np.random.Generator, unseen: bool = False) -> Scenes:
    """Draw ``n`` scenes. Two azimuths in three lie near the four named views; one scene in five is seen from overhead.

    ``unseen=True`` draws only held-out combinations, ``False`` only the others.
    """
    triples = np.array(
        [
            (o, c, p)
            for o in range(len(OBJECTS))
            for c in range(len(COLOURS))
            for p in range(len(PATTERNS))
        ]
    )
    triples = triples[held_out(*triples.T) == unseen]
    # objects are drawn evenly: the hold-out may leave one with fewer triples than another
    per_object = [triples[triples[:, 0] == o] for o in range(len(OBJECTS))]
    present = [o for o, rows in enumerate(per_object) if len(rows)]
    obj = rng.choice(present, n)
    pick = rng.random(n)
    picked = np.array(
        [per_object[o][int(p * len(per_object[o]))] for o, p in zip(obj, pick, strict=True)]
    ).reshape(n, 3)
    near = rng.integers(0, 4, n) * (np.pi / 2) + rng.normal(0, 0.2, n)
    azimuth = np.where(rng.random(n) < 0.67, near, rng.uniform(-np.pi, np.pi, n))
    top = rng.random(n) < 0.2
    elevation = np.where(
        top,
        rng.uniform(math.radians(58), math.radians(74), n),
        rng.uniform(math.radians(-2), math.radians(35), n),
    )
    return Scenes(
        object=picked[:, 0], colour=picked[:, 1], pattern=picked[:, 2], background=rng.integers(0, len(BACKGROUNDS), n),
        azimuth=(azimuth + np.pi) % (2 * np.pi) - np.pi, elevation=elevation,
        distance=rng.uniform(3.4, 3.8, n), tint=rng.uniform(0.94, 1.06, n),
    )  # fmt: skip


def render(scenes: Scenes, size: int = 64) -> np.ndarray:
    """Pictures of the scenes, uint8 ``[N, size, size, 3]``, on as many threads as torch has."""
    import numba  # wanted only where pictures are made
    import torch

    from limbeck.world import sdf_shapes as shapes

    first = _RGB[scenes.colour]
    second = np.where((scenes.colour == COLOURS.index("white"))[:, None], _SECOND_OF_WHITE, _SECOND)
    tint = scenes.tint[:, None].astype(np.float32)
    colours = np.stack(
        [first, second, SKY[scenes.background] * tint, GROUND[scenes.background] * tint], 1
    )
    flat = np.cos(scenes.elevation)
    toward = np.stack(
        [np.sin(scenes.azimuth) * flat, np.sin(scenes.elevation), np.cos(scenes.azimuth) * flat], 1
    )
    dark = scenes.colour == COLOURS.index("black")
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        return shapes.draw_scenes(scenes.object, scenes.pattern, dark, np.clip(colours, 0, 1).astype(np.float32),
                           toward * scenes.distance[:, None], size)  # fmt: skip
    finally:  # numba and torch share OpenMP, and numba leaves it with all cores
        torch.set_num_threads(threads)


def caption(
    obj: str, colour: str = "", pattern: str = "", background: str = "", view: str = ""
) -> str:
    """One caption in the world's grammar, e.g. ``a striped red mug on grass, side view``. Empty words are left out."""
    words = " ".join(word for word in (pattern, colour, obj) if word)
    article = "an" if words[0] in "aeiou" else "a"
    place = f" {PLACES[background]}" if background else ""
    return f"{article} {words}{place}" + (f", {view} view" if view else "")


def captions(scenes: Scenes, rng: np.random.Generator, full: float = 0.5) -> list[str]:
    """Captions with random dropping: a share ``full`` names every attribute that shows, the rest drop some.

    The word *plain* is said half the time. View words are dropped for objects that look alike from all sides, except overhead.
    """
    roll = rng.random((len(scenes), 6))
    complete = roll[:, 5] < full
    keep_colour = complete | (roll[:, 0] < 0.9)
    keep_pattern = np.where(scenes.pattern == 0, roll[:, 1] < 0.5, complete | (roll[:, 1] < 0.93))
    keep_place = complete | (roll[:, 2] < 0.6)
    telling = scenes.asymmetric | (scenes.view == VIEWS.index("overhead"))
    keep_view = np.where(telling, complete | (roll[:, 3] < 0.7), roll[:, 3] < 0.2)
    rows = zip(
        scenes.labels(), keep_colour, keep_pattern, keep_place, keep_view, roll[:, 4], strict=True
    )
    out = []
    for (o, c, p, b, v), kc, kp, kb, kv, prefix in rows:
        text = caption(OBJECTS[o], COLOURS[c] if kc else "", PATTERNS[p] if kp else "",
                       BACKGROUNDS[b] if kb else "", VIEWS[v] if kv else "")  # fmt: skip
        out.append(f"a photo of {text}" if prefix < 0.1 else text)
    return out


def full_captions(scenes: Scenes) -> list[str]:
    """Captions that name every attribute, except the view where it does not show."""
    telling = scenes.asymmetric | (scenes.view == VIEWS.index("overhead"))
    rows = zip(scenes.labels(), telling, strict=True)
    return [
        caption(OBJECTS[o], COLOURS[c], PATTERNS[p], BACKGROUNDS[b], VIEWS[v] if tell else "")
        for (o, c, p, b, v), tell in rows
    ]
