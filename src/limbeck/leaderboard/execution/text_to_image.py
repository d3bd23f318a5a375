"""Rows of leaderboards of methods that start from noise: their names, classes and settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from limbeck.config.discovery import choices, find
from limbeck.methods.base import EditMethod, Method
from limbeck.training.model_defaults import default_experiment

SAMPLING = "sampling"  #: name of the row of plain samples
Budget = Literal["passes", "iterations"]


@dataclass(frozen=True)
class TunedSetting:
    """What is tuned.

    Attributes:
        lr: learning rate of the latents; 0 for sampling, which has none.
        guidance: guidance scale. None: the method has none.
    """

    lr: float
    guidance: float | None


def text_to_image_methods() -> Mapping[str, type[Method]]:
    """The methods that start from noise, by name."""
    methods: Mapping[str, type[Method]] = choices(Method)
    return {name: cls for name, cls in methods.items() if not issubclass(cls, EditMethod)}


def find_method(name: str) -> type[Method]:
    """The class of a row.

    Args:
        name: name of a method that starts from noise, or FILE.py:Class.

    Raises:
        ValueError: if there is no such method, or it starts from an image.
    """
    method: type[Method] = find(Method, name)
    if issubclass(method, EditMethod):
        known = ", ".join((SAMPLING, *text_to_image_methods()))
        raise ValueError(
            f"{name} starts from an image, which the leaderboard does not give it; accepted: "
            f"{known}, or FILE.py:Class"
        )
    return method


def check_methods(names: Iterable[str]) -> None:
    """Refuse names that are not rows; see ``find_method``."""
    for name in names:
        if name != SAMPLING:
            find_method(name)


def default_guidance(name: str) -> float | None:
    """The guidance scale of a row on the embedded model by default; None if it has none."""
    if name == SAMPLING:
        return 5.0
    default = default_experiment(("any",), {"method": name}).method
    method = default if isinstance(default, find_method(name)) else find_method(name)()
    return next((getattr(method, f.name) for f in fields(method) if f.name == "guidance"), None)


def method_with(name: str, setting: TunedSetting) -> Method:
    """A method with a guidance scale and else its defaults."""
    method = find_method(name)()
    return method if setting.guidance is None else replace(method, guidance=setting.guidance)  # type: ignore[call-arg]
