"""Attributes of the world that a prompt names, by a word list."""

from __future__ import annotations

import re

from limbeck.world.scene import ASYMMETRIC, ATTRIBUTES, OBJECTS


def parse_prompt(prompt: str) -> dict[str, int]:
    """Return the indices of the attributes that a prompt names.

    Whole words count, in any order and case. An attribute is left out if the prompt has no word
    of it, or words of two: *a red cube beside a blue cube* has no single color.
    """
    words = set(re.findall(r"[a-z]+", prompt.lower()))
    matches = {
        name: [i for i, word in enumerate(vocabulary) if word in words]
        for name, vocabulary in ATTRIBUTES.items()
    }
    return {name: indices[0] for name, indices in matches.items() if len(indices) == 1}


def judgeable_attributes(prompt: str) -> dict[str, int]:
    """Return the attributes of a prompt that an image can be judged by.

    Args:
        prompt: text of a prompt.

    Returns:
        Class index by attribute; empty if the prompt names no object. The view is left out, unless
        it is overhead, if the object looks the same from all sides.
    """
    named = parse_prompt(prompt)
    if "object" not in named:
        return {}
    asymmetric = OBJECTS[named["object"]] in ASYMMETRIC
    overhead = ATTRIBUTES["view"].index("overhead")
    return {name: i for name, i in named.items() if name != "view" or asymmetric or i == overhead}
