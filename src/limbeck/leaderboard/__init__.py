"""The leaderboard: all methods on the same prompts, seeds and network passes."""

from __future__ import annotations

from typing import Any

from limbeck.config.lazy import attribute, exports


def __getattr__(name: str) -> Any:
    return attribute(__name__, name)


def __dir__() -> list[str]:
    return list(exports(__name__))
