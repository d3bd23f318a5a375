"""Vocabulary of a model that was trained on captions of few words, and what lies outside it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.diffusion.prompts import prompt_parts

FILE = "vocabulary.json"  #: in the pipeline folder of a model
_MAX_LISTED = 40  #: words listed of a vocabulary without kinds


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, in their order and each once."""
    return list(dict.fromkeys(re.findall(r"\w+", text.lower())))


@dataclass(frozen=True)
class Vocabulary:
    """The words of the captions that a model was trained on.

    Attributes:
        words: all words, the most frequent first, in lower case.
        kinds: phrases by what they describe, such as colors, for a description of the model.
        exclusive: the kind of which a caption names one.
    """

    words: tuple[str, ...]
    kinds: tuple[tuple[str, tuple[str, ...]], ...] = ()
    exclusive: str = ""

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are in no caption."""
        return [word for word in words_of(text) if word not in self.words]

    def rivals(self, text: str) -> list[str]:
        """The phrases of the exclusive kind that a text names, if they are several."""
        words = set(words_of(text))
        named = [phrase for phrase in dict(self.kinds).get(self.exclusive, ()) if phrase in words]
        return named if len(named) > 1 else []

    def describe(self) -> str:
        """The vocabulary in one line."""
        if not self.kinds:
            more = len(self.words) - _MAX_LISTED
            listed = ", ".join(self.words[:_MAX_LISTED])
            return f"{listed} and {more} more words" if more > 0 else listed
        return "; ".join(f"{kind}: {', '.join(phrases)}" for kind, phrases in self.kinds)

    def notices(self, texts: Iterable[str]) -> list[str]:
        """What a user should know before these prompts are used.

        Args:
            texts: prompts, negative prompts or texts of a method.

        Returns:
            One line per text with unknown words or several objects, and one that describes the
            vocabulary; empty if the model knows all words.
        """
        parts = dict.fromkeys(part for text in texts for part in prompt_parts(text))
        lines = [self._notice(part.strip(" ,")) for part in parts]
        found = [line for line in lines if line]
        if found:
            found.append(
                f"the model knows {self.describe()}; for anything else bring another, such as "
                "Stable Diffusion: --model NAME, see limbeck models"
            )
        return found

    def _notice(self, text: str) -> str:
        unknown, rivals = self.unknown(text), self.rivals(text)
        quoted = ", ".join(f'"{word}"' for word in unknown)
        faults = [f"does not know {quoted}"] if unknown else []
        if rivals:
            faults.append(f"has seen one object per image, not {' with '.join(rivals)}")
        return f'"{text}": the model {" and ".join(faults)}' if faults else ""


def caption_vocabulary(captions: Iterable[str]) -> Vocabulary:
    """The vocabulary of a model that was trained on these captions."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return Vocabulary(tuple(word for word, _ in counts.most_common()))


def write_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Write the vocabulary of a model into its pipeline folder."""
    content = vars(vocabulary) | {"kinds": dict(vocabulary.kinds)}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """Read the vocabulary of a pipeline folder; None if it has none: the model knows any word.

    Raises:
        ValueError: if the file is not a vocabulary.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Vocabulary(
            _texts(content["words"]),
            tuple((kind, _texts(phrases)) for kind, phrases in content["kinds"].items()),
            str(content["exclusive"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a vocabulary: {str(error) or type(error).__name__}"
        ) from error


def _texts(values: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r:.40} is not a list of texts")
    return tuple(values)
