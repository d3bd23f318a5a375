"""Attributes of the world that are named in prompts."""

from limbeck.world.prompt_parser import judgeable_attributes, parse_prompt
from limbeck.world.scene import BACKGROUNDS, COLORS, OBJECTS, PATTERNS, VIEWS, caption


def test_every_caption_of_the_world_is_parsed():
    for i, obj in enumerate(OBJECTS):
        for j in range(10):
            c, p, b, v = j % len(COLORS), j % len(PATTERNS), j % len(BACKGROUNDS), j % len(VIEWS)
            text = caption(obj, COLORS[c], PATTERNS[p], BACKGROUNDS[b], VIEWS[v])
            expected = {"object": i, "color": c, "pattern": p, "background": b, "view": v}
            assert parse_prompt(text) == expected, text


def test_word_order_and_case_do_not_matter():
    expected = parse_prompt("a striped red mug on grass")
    assert parse_prompt("On GRASS: a mug, red, striped") == expected
    assert parse_prompt("a snowman") == {"object": OBJECTS.index("snowman")}  # no snow in it


def test_ambiguous_attributes_are_left_out():
    assert "color" not in parse_prompt("a red cube beside a blue one")


def test_only_prompts_with_an_object_are_judgeable_and_only_views_that_differ():
    assert parse_prompt("a red disc") == {"color": COLORS.index("red")}
    assert judgeable_attributes("a red disc") == {}
    assert "view" not in judgeable_attributes("a red sphere, side view")
    assert "view" in judgeable_attributes("a red sphere, overhead view")
    assert "view" in judgeable_attributes("a red car, side view")
