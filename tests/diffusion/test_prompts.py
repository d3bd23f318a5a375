"""Prompts with added words."""

import copy
import pickle

from limbeck.diffusion.prompts import extend_prompt, prompt_parts


def test_an_extended_prompt_is_the_joined_text():
    text = extend_prompt("a mug", ", side view")
    assert text == "a mug, side view" and hash(text) == hash("a mug, side view")
    assert prompt_parts(text) == ("a mug", ", side view") and prompt_parts("a mug") == ("a mug", "")


def test_what_is_added_later_is_kept_too():
    text = extend_prompt(extend_prompt("a mug", ", side view"), ", blurry")
    assert text.key == ("a mug", ", side view, blurry")


def test_it_keeps_its_parts_when_it_is_copied():
    text = extend_prompt("a mug", ", side view")
    for same in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert same == text and same.key == text.key
