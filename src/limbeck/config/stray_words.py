"""Words of a command line that belong to no option, refused where they are meant as one."""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.config.scheduled_numbers import looks_scheduled

#: values that are meant for an option of true or false but are neither
_TRUTH_WORDS = ("yes", "no", "on", "off", "y", "n", "t", "f", "maybe", "none", "auto")
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf)"
_DASHES = "\u2010-\u2015\u2212"  #: hyphens, dashes and the minus sign of web pages and chats


def refuse_stray(word: str, flag: str, hint: Any, has_texts: bool, positional: str) -> None:
    """Refuse a word behind a complete option that is more likely its value than a prompt.

    Args:
        word: the first word that belongs to no option after ``flag``.
        flag: the option before it.
        hint: type of its value.
        has_texts: whether words that belong to no option came before ``flag``.
        positional: option that takes them.
    """
    is_number = is_numeral(word)
    takes = typing.get_args(hint) if typing.get_origin(hint) is tuple else (hint,)
    if bool in takes and (is_number or word.lower() in _TRUTH_WORDS):
        raise ValueError(f"{flag} must be true or false, not {word!r}")
    if is_number and str not in takes and Path not in takes:
        count = f"{len(takes)} values" if len(takes) > 1 else "one value"
        raise ValueError(f"{flag} takes {count}, and {word!r} follows; put prompts in quotes")
    if has_texts and positional == "prompts":
        raise ValueError(
            f"{word!r} follows {flag}, but the prompts stand elsewhere: put values with spaces in "
            "quotes, and all prompts before the options"
        )


def is_numeral(word: str) -> bool:
    """Whether a word is written as a number."""
    return re.fullmatch(_NUMBER, word.lower()) is not None


def refuse_dash(word: str) -> None:
    """Refuse a word that begins as an option, with a dash that is no hyphen."""
    if re.match(rf"[{_DASHES}][-{_DASHES}]?[^\W\d_]", word):
        raise ValueError(
            f"{word!r} begins with a dash that is no hyphen: options are written --NAME VALUE; put "
            "a text that begins so behind --"
        )


def refuse_negated_value(flag: str, positive: str, words: Sequence[str], is_joined: bool) -> None:
    """Refuse a value behind an option that takes none, such as ``--no-films false``.

    Args:
        flag: the option, with ``no-``.
        positive: the option without.
        words: the words behind it.
        is_joined: whether it is written with ``=`` and a value.
    """
    word = words[0].lower() if words else ""
    if is_joined or is_numeral(word) or word in (*_TRUTH_WORDS, "true", "false"):
        raise ValueError(f"{flag} takes no value: give {positive} true or {positive} false")


def refuse_second_value(given: dict[str, Any], flag: str, value: Any) -> None:
    """Refuse an option that is given twice with different values, of which one would be lost.

    Args:
        given: values of the options before it, to which it is added.
        flag: the option.
        value: its value as typed, or several.
    """
    first = given.setdefault(flag, value)
    if first == value:
        return
    if isinstance(value, list):
        raise ValueError(f"{flag} is given twice: write all of its values behind one")
    raise ValueError(f"{flag} is given twice ({first} and {value}): give it once")


def refuse_open_schedule(flag: str, value: Any, words: Sequence[str]) -> None:
    """Refuse a schedule without quotes, such as ``--method.guidance linear 50 1``.

    Args:
        flag: an option that takes a schedule.
        value: its value as typed.
        words: the words behind the value.
    """
    if words and (is_numeral(words[0]) if looks_scheduled(value) else words[0] == "until"):
        count = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
        text = " ".join([value, *words[:count]])
        raise ValueError(
            f"{flag} {text} is one value: put it in quotes, {flag} {shlex.quote(text)}"
        )
