"""YAML that people write: what would be lost or blow up is refused, with line and column."""

from __future__ import annotations

import re
from typing import Any

import yaml

_MAX_DEPTH = 50  #: levels of nesting of a configuration


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader for configurations: what it would overwrite or blow up is refused.

    A key given twice would lose its first value. Aliases may nest, so that a few bytes stand for
    gigabytes, and so may lists, beyond the depth of Python's stack.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()
        reason = ""
        if isinstance(event, yaml.AliasEvent):
            reason = f"aliases (*{event.anchor}) are not read: write the value out"
        elif self._depth >= _MAX_DEPTH:
            reason = f"more than {_MAX_DEPTH} levels of nesting"
        if reason:
            mark: Any = event.start_mark
            raise yaml.composer.ComposerError(None, None, reason, mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_number(self, node: Any) -> Any:
        """A number; YAML 1.1 reads 1:30 as 90, which here is text, such as a range of seeds.

        It also reads 010 as octal, 8, which here is 10, as on the command line.
        """
        text = self.construct_scalar(node)
        if ":" in str(text):
            return text
        if re.fullmatch(r"[-+]?0[0-9]+", str(text)):
            return int(text)
        is_int = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is given twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                keys.add(key.value)
        return super().construct_mapping(node, deep)


for _tag in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _StrictLoader.construct_number)


def parse_yaml(text: str) -> Any:
    """Parse YAML into plain lists, mappings and scalars.

    Raises:
        ValueError: if it is not YAML, has a key twice, aliases, or too many levels.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number out of range
        raise ValueError(f"this is not YAML: {_fault(error)}") from error


def _fault(error: Exception) -> str:
    """What is wrong and where, without the name that YAML gives a text in memory."""
    text = str(error)
    if isinstance(error, yaml.reader.ReaderError):
        text = f"character U+{error.character:04X} is not allowed (character {error.position + 1})"
    elif isinstance(error, yaml.MarkedYAMLError):
        text = ", ".join(part for part in (error.context, error.problem) if part)
        if mark := error.problem_mark or error.context_mark:
            text = f"{text[:300]} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(text.split())[:400]
