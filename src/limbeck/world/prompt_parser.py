"""What a prompt says of the world, by a word list."""

from __future__ import annotations

import re

from limbeck.world.scene import ASYMMETRIC, ATTRIBUTES, OBJECTS


def parse_prompt(prompt: str) -> dict[str, int]:
    """Indices of the world's attributes that a prompt names, in any order, by whole words whatever their case.

    An attribute is left out when no word of it is there, or words of two: *a red cube beside a blue cube* says no one colour.
    """
    words = set(re.findall(r"[a-z]+", prompt.lower()))
    named = {
        name: [i for i, word in enumerate(known) if word in words]
        for name, known in ATTRIBUTES.items()
    }
    return {name: hits[0] for name, hits in named.items() if len(hits) == 1}


def judgeable_attributes(prompt: str) -> dict[str, int]:
    """The part of ``said`` that a picture can be judged by: nothing without an object, no view of an object that has no sides."""
    told = parse_prompt(prompt)
    if "object" not in told:
        return {}
    sided = OBJECTS[told["object"]] in ASYMMETRIC
    overhead = ATTRIBUTES["view"].index("overhead")
    return {name: i for name, i in told.items() if name != "view" or sided or i == overhead}
