"""Former names of options and components, and the names that are valid now."""

from __future__ import annotations

#: noun of the base class -> former name -> name; without hyphens
COMPONENTS: dict[str, dict[str, str]] = {
    "representation": {"field": "nerf"},
}

#: names by which methods are searched for -> options to use
SEARCH_NAMES: dict[str, str] = {
    "rsd": "--method repulsive",
    "collaborative": "--method svgd",
    "cfd": "--method sds --noise fixed-per-particle --timesteps linear",
    "fsd": "--method sds --noise fixed-per-particle --timesteps linear",
    "debiasedsds": "--method sds --grad-transform clip",
}

#: former option -> option, as dotted paths with hyphens
OPTIONS: dict[str, str] = {}


def renamed_component(noun: str, name: str) -> ValueError | None:
    """The error for a former name of a component, or a search name of a method; None for others.

    Args:
        noun: what the component is, such as ``representation``.
        name: name of the component.
    """
    squashed = name.lower().replace("-", "").replace("_", "")
    if squashed in COMPONENTS.get(noun, {}):
        return ValueError(f"{noun} {name!r} is now {COMPONENTS[noun][squashed]!r}")
    if noun == "method" and squashed in SEARCH_NAMES:
        return ValueError(f"method {name!r}: use {SEARCH_NAMES[squashed]}")
    return None


def renamed_option(path: str) -> ValueError | None:
    """The error for a former option; None for others.

    Args:
        path: dotted path of the option, ``--parts.lora`` on the command line.
    """
    name = OPTIONS.get(path.removeprefix("--").replace("_", "-"))
    if name is None:
        return None
    return ValueError(
        f"{path} is now {'--' + name if path[:2] == '--' else name.replace('-', '_')}"
    )
