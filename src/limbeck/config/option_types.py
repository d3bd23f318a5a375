"""The type of an option by its dotted name, given the components that are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.config.discovery import base_of, options_of, union_members
from limbeck.config.yaml import component_class


def option_type(cls: type, name: str, plain: Mapping[str, Any], default: Any = None) -> Any:
    """Type of an option such as ``method.guidance``.

    Args:
        cls: the dataclass.
        name: the option, dotted.
        plain: nested options, which say what components are chosen.
        default: instance whose values are the defaults if it is a ``cls``.

    Returns:
        The type; None if there is no such option.

    Raises:
        ValueError: if there is no such component.
    """
    head, _, rest = name.partition(".")
    hint, value = options_of(cls, default).get(head, (None, None))
    if not rest or hint is None:
        return hint
    inner, base = plain.get(head, {}), base_of(hint)
    if base is None:
        return None
    chosen = inner if isinstance(inner, dict) else {"name": inner}
    component = component_class(base, chosen.get("name"), head, value)
    return option_type(component, rest, chosen, value) if component is not None else None


def takes_integers_only(hint: Any) -> bool:
    """Whether an option of this type takes integers and no fractions."""
    members = union_members(hint)
    return int in members and float not in members
