"""Former names of options and components, and the names that are valid now."""

from __future__ import annotations

#: noun of the base class -> former name -> name; without hyphens
RENAMED_COMPONENTS: dict[str, dict[str, str]] = {
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
RENAMED_OPTIONS: dict[str, str] = {}


def renamed_option(path: str) -> ValueError | None:
    """The error for a former option, given as in YAML or as a flag; None if it is not one.

    Args:
        path: dotted path of the option, such as ``--parts.lora`` or ``negative``.
    """
    name = RENAMED_OPTIONS.get(path.removeprefix("--").replace("_", "-"))
    if name is None:
        return None
    flag = f"--{name}" if path.startswith("--") else name.replace("-", "_")
    return ValueError(f"{path} is now {flag}")
