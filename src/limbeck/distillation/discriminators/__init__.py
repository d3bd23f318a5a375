"""Discriminators: how likely a noised sample is one of the prior, one file each."""

from __future__ import annotations

from typing import Any

from limbeck.config.lazy import attribute, exports


def __getattr__(name: str) -> Any:
    return attribute(__name__, name)


def __dir__() -> list[str]:
    return list(exports(__name__))
