"""Prompts that are longer than a text encoder reads: what is cut, and the notice of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.diffusion.prompts import prompt_parts

_MAX_QUOTED = 60  #: characters of a prompt that a message quotes


@dataclass(frozen=True)
class TokenLimit:
    """How much text an encoder reads.

    Attributes:
        encoder: name of the component, such as ``text_encoder_2``.
        tokenizer: its tokenizer.
        tokens: the most tokens it reads, with those for start and end.
    """

    encoder: str
    tokenizer: Any
    tokens: int

    def fits(self, text: str) -> bool:
        """Whether the encoder reads all of a text."""
        ids = self.tokenizer(text, truncation=False, verbose=False).input_ids
        return len(ids) <= self.tokens

    def token_ids(self, text: str) -> list[int]:
        """Token ids of as much of a text as the encoder reads, with those for start and end."""
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=self.tokens).input_ids
        return ids


def clip_limit(pipe: Any, number: int = 1) -> TokenLimit:
    """The limit of a CLIP text encoder of a pipeline, by its number."""
    suffix = f"_{number}" if number > 1 else ""
    tokenizer = getattr(pipe, f"tokenizer{suffix}")
    return TokenLimit(f"text_encoder{suffix}", tokenizer, tokenizer.model_max_length)


def limit_after(prefix: str, tokenizer: Any, tokens: int) -> TokenLimit:
    """The limit of a text encoder that reads a prompt after other text.

    Args:
        prefix: this other text, such as the start of a chat.
        tokenizer: its tokenizer.
        tokens: the most tokens it reads of both together.
    """
    special = len(tokenizer("").input_ids)  # counted with the prefix and with the prompt
    room = tokens + special - len(tokenizer(prefix).input_ids)
    return TokenLimit("text_encoder", tokenizer, room)


@dataclass(frozen=True)
class FittedPrompt:
    """A prompt as one encoder is given it.

    Attributes:
        text: the text to encode.
        lost: the end of the prompt that the encoder does not read.
    """

    text: str
    lost: str = ""


def fit_prompt(text: str, limit: TokenLimit) -> FittedPrompt:
    """Fit a prompt to an encoder.

    An ordinary prompt is left to the tokenizer, which cuts it as in the model's own pipeline. A
    prompt with added words is cut after its last word that leaves room for them.

    Args:
        text: the prompt.
        limit: what the encoder reads.

    Raises:
        ValueError: if the added words leave no room for a word of the prompt.
    """
    if limit.fits(text):
        return FittedPrompt(text)
    prompt, added = prompt_parts(text)
    end = _last_fitting_end(prompt, added, limit)
    if not added:
        return FittedPrompt(text, prompt[end:].strip())
    if end == 0:
        raise ValueError(
            f"{_quote(added.strip(' ,'))} is too long for the {limit.tokens} tokens that the "
            f"{limit.encoder} of this model reads with the prompt: shorten it"
        )
    return FittedPrompt(_joined(prompt[:end], added), prompt[end:].strip())


def _joined(prompt: str, added: str) -> str:
    return prompt.rstrip(" ,;:.") + added


def _last_fitting_end(prompt: str, added: str, limit: TokenLimit) -> int:
    """End of the last word up to which the prompt fits with the added words; 0 if none does.

    Of a text without spaces, single characters count as words.
    """
    for pattern in (r"\S+", r"\S"):
        ends = [match.end() for match in re.finditer(pattern, prompt)]
        low, high = 0, len(ends)  # of the first `low` words it is known that they fit
        while low < high:
            middle = (low + high + 1) // 2
            if limit.fits(_joined(prompt[: ends[middle - 1]], added)):
                low = middle
            else:
                high = middle - 1
        if low:
            return ends[low - 1]
    return 0


def describe_cut(text: str, limits: Sequence[TokenLimit], fitted: Sequence[FittedPrompt]) -> str:
    """The notice of a prompt that was cut; empty if every encoder reads all of it.

    Args:
        text: the prompt.
        limits: what each encoder of the model reads.
        fitted: the prompt as each of them is given it.
    """
    prompt, _ = prompt_parts(text)
    encoders: dict[tuple[int, str], list[str]] = {}
    readers = []
    for limit, fit in zip(limits, fitted, strict=True):
        if fit.lost:
            encoders.setdefault((limit.tokens, fit.lost), []).append(limit.encoder)
        else:
            readers.append(limit.encoder)
    if not encoders:
        return ""
    losses = [
        f"{_quote(lost)} is not read by {' and '.join(names)}, which "
        f"{'stop' if len(names) > 1 else 'stops'} after {tokens} tokens"
        for (tokens, lost), names in encoders.items()
    ]
    read = "read" if len(readers) > 1 else "reads"
    whole = f"; {' and '.join(readers)} {read} all of it" if readers else ""
    return (
        f"the prompt {_quote(prompt)} is longer than this model reads: {'; '.join(losses)}{whole}; "
        "shorten the prompt, or put what matters first"
    )


def _quote(text: str) -> str:
    return f'"{text}"' if len(text) <= _MAX_QUOTED else f'"{text[: _MAX_QUOTED - 3]}..."'
