"""Measurements of a method with one setting, computed once and kept in small files."""

from __future__ import annotations

import abc
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from limbeck.leaderboard.execution.text_to_image import TunedSetting
from limbeck.leaderboard.execution.workers import load_prior
from limbeck.leaderboard.images.cells import Cell, trains_critic
from limbeck.system.files import read_json_object, slug, write_text


@dataclass(frozen=True)
class Measurement(abc.ABC):
    """What to measure; everything that the result depends on.

    Attributes:
        name: name of the row: a method, or sampling.
        setting: guidance scale and learning rate.
        prompts: the prompts, none of the comparison.
        steps: optimization or sampling steps of an image of the row.
        seed: seed of every run.
        precision: dtype of the model.
        code: SHA-256 of the file of a method of the user's own; empty for others.
    """

    kind: ClassVar[str]

    name: str
    setting: TunedSetting
    prompts: tuple[str, ...]
    steps: int
    seed: int
    precision: str
    code: str = ""

    @property
    def path(self) -> Path:
        """The file of its result, within the folder of a leaderboard."""
        text = json.dumps(asdict(self), sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        return Path("measurements") / f"{slug(self.name)}-{self.kind}-{digest}.json"

    @property
    @abc.abstractmethod
    def image_steps(self) -> int:
        """About how many steps of an image it takes; 0 if its time tells nothing of the others."""

    @abc.abstractmethod
    def measure(self) -> dict[str, Any]:
        """Measure; the result is written as JSON."""

    def save(self, result: dict[str, Any], path: Path) -> None:
        """Write a result; what was measured is kept with it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"measurement": asdict(self), "result": result}, indent=1)
        write_text(path, text + "\n")

    def load(self, path: Path) -> dict[str, Any]:
        """Read a result."""
        result: dict[str, Any] = read_json_object(path)["result"]
        return result

    def prompt_groups(self) -> list[tuple[str, ...]]:
        """The prompts of each run: one prompt, if the method trains a critic, or all of them."""
        if trains_critic(self.cell(self.prompts), load_prior(self.precision)):
            return [(prompt,) for prompt in self.prompts]
        return [self.prompts]

    def cell(self, prompts: tuple[str, ...], images: int = 1) -> Cell:
        """Images of some prompts by the same run as in the comparison."""
        return Cell(
            self.name,
            self.setting,
            prompts,
            images,
            self.steps,
            self.seed,
            self.precision,
            self.code,
        )
