"""Prompts with words added at their end, which survive where a text encoder cuts the prompt."""

from __future__ import annotations


class ExtendedPrompt(str):
    """A prompt followed by words that a camera or a method adds, as one text.

    A text encoder of limited length cuts the prompt and keeps the added words. A prior that knows
    nothing of this sees an ordinary string.

    Attributes:
        prompt: the text that may be cut.
        added: the text that is kept.
    """

    prompt: str
    added: str

    def __new__(cls, prompt: str, added: str) -> ExtendedPrompt:
        text = super().__new__(cls, prompt + added)
        text.prompt, text.added = prompt, added
        return text

    def __reduce__(self) -> tuple[type[ExtendedPrompt], tuple[str, str]]:  # for copy and pickle
        return ExtendedPrompt, self.key

    @property
    def key(self) -> tuple[str, str]:
        """The two parts: equal texts divided elsewhere are cut elsewhere."""
        return self.prompt, self.added


def extend_prompt(prompt: str, added: str) -> ExtendedPrompt:
    """Append words to a prompt that must not be cut off, for the conditions of a prior.

    Args:
        prompt: a prompt, possibly one that was extended before.
        added: text to append as it is, with its comma or space.
    """
    if isinstance(prompt, ExtendedPrompt):
        return ExtendedPrompt(prompt.prompt, prompt.added + added)
    return ExtendedPrompt(prompt, added)


def prompt_parts(text: str) -> tuple[str, str]:
    """Return the prompt and the words added to it, "" for an ordinary text."""
    return text.key if isinstance(text, ExtendedPrompt) else (text, "")
