"""Vocabulary of a model: unknown words, several objects, its file."""

import pytest

from limbeck.diffusion.prompts import extend_prompt
from limbeck.diffusion.vocabulary import (
    Vocabulary,
    caption_vocabulary,
    read_vocabulary,
    words_of,
    write_vocabulary,
)

FRUIT = Vocabulary(
    ("a", "ripe", "apple", "pear", "on", "wood"),
    (("fruit", ("apple", "pear")), ("places", ("on wood",))),
    "fruit",
)
KNOWN = (
    "the model knows fruit: apple, pear; places: on wood; for anything else bring another, such as "
    "Stable Diffusion: --model NAME, see limbeck models"
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A ripe APPLE, on wood.", None),
        ("", None),
        ("a ripe plum", 'the model does not know "plum"'),
        ("two plums on two plates", 'the model does not know "two", "plums", "plates"'),
        ("a pear on apple", "the model has seen one object per image, not apple with pear"),
        (
            "an apple and a pear",
            'the model does not know "an", "and" and has seen one object per image, not apple with '
            "pear",
        ),
        ("une pomme mûre", 'the model does not know "une", "pomme", "mûre"'),
    ],
)
def test_notices_name_what_the_model_has_not_seen(text, fault):
    expected = [f'"{text}": {fault}', KNOWN] if fault else []
    assert FRUIT.notices([text]) == expected


def test_several_prompts_are_described_once_and_views_do_not_repeat_a_prompt():
    views = [extend_prompt("a plum", f", {side} side") for side in ("left", "right")]
    assert FRUIT.notices([*views, "a plum", "a pear"]) == [
        '"a plum": the model does not know "plum"',
        '"left side": the model does not know "left", "side"',
        '"right side": the model does not know "right", "side"',
        KNOWN,
    ]


def test_a_vocabulary_of_captions_lists_frequent_words_first():
    captions = ["a red bird", "a blue bird", "a bird in a tree"]
    vocabulary = caption_vocabulary(captions)
    assert vocabulary.words == ("a", "bird", "red", "blue", "in", "tree")
    assert vocabulary.unknown("A bird on a tree-top") == ["on", "top"]
    assert vocabulary.notices(["an owl"])[1].startswith("the model knows a, bird, red, blue, in,")
    many = caption_vocabulary([f"word{i}" for i in range(100)])
    assert many.describe().endswith("word39 and 60 more words")


def test_the_file_of_a_vocabulary(tmp_path):
    assert read_vocabulary(tmp_path) is None
    for vocabulary in (FRUIT, caption_vocabulary(["ein grüner Baum"])):
        write_vocabulary(vocabulary, tmp_path)
        assert read_vocabulary(tmp_path) == vocabulary
    for broken in ("{", "[]", '{"words": 3}', '{"words": [1], "kinds": {}, "exclusive": ""}'):
        (tmp_path / "vocabulary.json").write_text(broken)
        with pytest.raises(ValueError, match=r"vocabulary\.json is not a vocabulary: "):
            read_vocabulary(tmp_path)


def test_words_are_those_of_any_alphabet_once():
    words = words_of("Low-resolution, LOW; naïve 3d 犬")
    assert words == ["low", "resolution", "naïve", "3d", "犬"]
