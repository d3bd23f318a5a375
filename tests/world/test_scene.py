"""Scenes of the world: renders agree with labels, captions with scenes, all by seed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from limbeck.world.scene import (
    BACKGROUNDS,
    COLORS,
    OBJECTS,
    PATTERNS,
    VIEWS,
    Scenes,
    caption,
    is_held_out,
    object_masks,
    random_captions,
    random_scenes,
    render_scenes,
)


def draw(n: int, seed: int = 0, unseen: bool = False) -> Scenes:
    return random_scenes(n, np.random.default_rng(seed), unseen)


def test_the_same_seed_renders_the_same_images():
    a, b = draw(6), draw(6)
    assert np.array_equal(render_scenes(a), render_scenes(b))
    assert not np.array_equal(render_scenes(a), render_scenes(draw(6, 1)))
    texts = [random_captions(scenes, np.random.default_rng(3)) for scenes in (a, b)]
    assert texts[0] == texts[1]


def test_rendering_keeps_the_number_of_torch_threads():
    """Numba shares OpenMP with torch and would leave it with all cores for every later test."""
    before = torch.get_num_threads()
    render_scenes(draw(2), 16)
    assert torch.get_num_threads() == before == 1


def test_held_out_combinations_are_never_drawn_for_training():
    seen, unseen = draw(5000), draw(500, unseen=True)
    assert not is_held_out(seen.object, seen.color, seen.pattern).any()
    assert is_held_out(unseen.object, unseen.color, unseen.pattern).all()
    assert set(seen.object) == set(unseen.object) == set(range(len(OBJECTS)))


def scene(obj: str, azimuth: float, elevation: float, color: str = "red") -> Scenes:
    """One plain object in the sky, seen from angles in degrees."""
    values = {
        "object": OBJECTS.index(obj),
        "color": COLORS.index(color),
        "pattern": 0,
        "background": 0,
        "azimuth": np.radians(azimuth),
        "elevation": np.radians(elevation),
        "distance": 3.6,
        "brightness": 1.0,
    }
    return dataclasses.replace(draw(1), **{k: np.array([v]) for k, v in values.items()})


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [
        (0, 10, "front"),
        (44, 0, "front"),
        (46, 0, "side"),
        (-90, 20, "side"),
        (134, 0, "side"),
        (136, 0, "back"),
        (180, 5, "back"),
        (0, 60, "overhead"),
    ],
)
def test_views_follow_the_camera(azimuth, elevation, view):
    assert VIEWS[scene("duck", azimuth, elevation).view[0]] == view


def count_yellow(image: np.ndarray) -> int:
    r, g, b = image.astype(int).transpose(2, 0, 1)
    return int(((r > 150) & (g > 130) & (b < 130)).sum())


def test_front_lights_of_a_car_show_in_the_front_view():
    """They are yellow, so the front view has many more yellow pixels than the back view."""
    front, back = (render_scenes(scene("car", azimuth, 10, "blue"))[0] for azimuth in (0, 180))
    assert count_yellow(front) > 4 * (count_yellow(back) + 5)


def mean_red_column(image: np.ndarray) -> float:
    image = image.astype(int)
    return np.nonzero(image[..., 0] - image[..., 2] > 40)[1].mean()


def test_the_handle_of_a_mug_is_mirrored_between_front_and_back():
    front, back = (mean_red_column(render_scenes(scene("mug", a, 0))[0]) for a in (0, 180))
    assert abs(front - back) > 1
    assert abs((front - 31.5) + (back - 31.5)) < 2


def test_captions_name_only_true_attributes_and_drop_some():
    scenes = draw(2000)
    texts = random_captions(scenes, np.random.default_rng(0))
    for text, (o, c, _p, _b, v) in zip(texts, scenes.labels(), strict=True):
        words = text.replace(",", "").split()
        assert OBJECTS[o] in words
        assert not (set(COLORS) - {COLORS[c]}) & set(words)
        assert not (set(VIEWS) - {VIEWS[v]}) & set(words)
    num_with_pattern = sum(any(p in text for p in PATTERNS) for text in texts)
    assert 0.6 < num_with_pattern / 2000 < 0.95
    assert any(not any(c in text.split() for c in COLORS) for text in texts)


def test_the_article_agrees_with_its_word():
    assert caption("duck", "orange") == "an orange duck"
    text = caption("mug", "red", "striped", "grass", "side")
    assert text == "a striped red mug on grass, side view"


def test_object_masks_are_where_the_background_shows_in_no_color():
    scenes = draw(6, seed=2)
    some, whole = object_masks(scenes)
    assert whole.any((1, 2)).all() and (some >= whole).all() and (some != whole).any((1, 2)).all()
    other = (scenes.background + 1) % len(BACKGROUNDS)
    images = render_scenes(scenes).astype(int)
    changed = (images != render_scenes(dataclasses.replace(scenes, background=other))).any(-1)
    assert not changed[whole].any()  # a new background leaves what shows nothing but the object
    recolored = dataclasses.replace(scenes, color=(scenes.color + 1) % len(COLORS))
    changed = (images != render_scenes(recolored)).any(-1)
    assert changed.any((1, 2)).all() and not changed[~some].any()
