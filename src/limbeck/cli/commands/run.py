"""optimise particles for one or more prompts and write a run folder with its report"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.config.discovery import component_name
from limbeck.runs.loggers import Logger
from limbeck.training.presets.base import Preset, shared_options, stage_start

if TYPE_CHECKING:
    from limbeck.training.experiment import Experiment

UNSAID = ("(a prompt)",)  #: stands for the prompts in the defaults of a preset


@dataclass(frozen=True)
class Recipe:
    """What a run is made of, where that is not said option by option.

    preset: a paper's recipe, whose options are the defaults here.
    """

    preset: Preset | None = None


if TYPE_CHECKING:
    from limbeck.training.experiment import Experiment


@dataclass(frozen=True)
class Watched:
    """Where a run goes and how it is watched.

    out: run folder, made of prompt, method and options if left out. every: steps between pictures and checkpoints, 0 to let the
    run choose. device: auto, cpu, cuda, cuda:N or mps. view: show what has sides in the browser beside the run. config: a run's
    run.yaml, whose options are the defaults here. mirror: where figures and pictures go besides the folder. diagnose: stop a run of
    what has sides once it shows nothing any more. dry: take three steps in memory, say what the run would need, write nothing.
    """

    out: Path | None = None
    every: int = 0
    device: str = "auto"
    view: bool = False
    config: Path | None = None
    mirror: Logger | None = None
    diagnose: bool = True
    dry: bool = False

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"every must be at least 0, not {self.every}")


def main(argv: Sequence[str]) -> None:
    """``limbeck run``: make or continue a run folder, or those of the stages of a recipe."""
    from limbeck.config import yaml as config
    from limbeck.config.command_line import parse, said
    from limbeck.training.experiment import Experiment

    file, preset = said(argv, "config"), _preset(argv)
    if file is not None and preset is not None:
        raise ValueError("--config and --preset both say what is run: give one of them")
    first = next(iter(preset.stages(UNSAID).values())) if preset is not None else None
    default = config.read_yaml(Experiment, Path(file)) if file is not None else first
    about = "Optimise particles for each PROMPT and write a run folder. The same command goes on with a run that was stopped."
    experiment, _, place = parse(
        [(Experiment, default), (Recipe, Recipe(preset)), (Watched, None)],
        argv,
        "limbeck run",
        about,
        "prompts",
    )
    if experiment.prompts == UNSAID:
        raise ValueError("a prompt is missing: give at least one text that is not empty")
    command = shlex.join(["limbeck", "run", *argv])
    if preset is None or first is None or len(preset.stages(UNSAID)) == 1:
        _one(experiment, place, place.out, command, place.view)
    else:
        _stages(preset, first, experiment, place, command)


def _preset(argv: Sequence[str]) -> Preset | None:
    """The recipe that is named, with its own options; the others are read later, since their defaults are its."""
    from limbeck.config.command_line import parse

    own: list[str] = []
    for i, word in enumerate(argv):
        if word == "--":
            break
        name, equals, _ = word.partition("=")
        if name == "--preset" or name.startswith("--preset."):
            own += [word] if equals else [word, *argv[i + 1 : i + 2]]
    return parse([(Recipe, None)], own, "limbeck run", "")[0].preset if own else None


def _stages(
    preset: Preset, first: Experiment, chosen: Experiment, place: Watched, command: str
) -> None:
    """One run folder after the other below one; each begins with what the one before left."""
    from dataclasses import replace

    from limbeck.config.yaml import fingerprint, slug

    stages = preset.stages(UNSAID)
    whole = {name: shared_options(first, chosen, stage) for name, stage in stages.items()}
    name = component_name(type(preset))
    above = (
        place.out
        or Path("runs")
        / f"{slug(chosen.prompts[0])}-{name}-{fingerprint(replace(first, prompts=chosen.prompts))}"
    )
    before = None
    with (
        watching(above, chosen) if place.view and not place.dry else nullcontext()
    ):  # one page for all stages
        for number, (name, stage) in enumerate(whole.items(), 1):
            folder = above / f"{number}-{name}"
            if place.dry:
                print(f"{folder.name}: ", end="", flush=True)
            _one(
                stage if before is None else stage_start(stage, before),
                place,
                folder,
                command,
                view=False,
            )
            before = (
                None if place.dry else folder
            )  # no folder to begin with: tried with what it makes by itself


def _one(
    experiment: Experiment, place: Watched, out: Path | None, command: str, view: bool
) -> None:
    from limbeck.cli.run_folder import check_folder, default_folder, going_on

    folder = out or default_folder(experiment)
    check_folder(folder, experiment)
    watched = watching(folder, experiment) if view else nullcontext()

    from limbeck.priors.loading import load
    from limbeck.runs.recorder import record
    from limbeck.training.resources import refuse_weights, rehearsed
    from limbeck.training.trainer import Run

    refuse_weights(experiment, place.device)
    prior = load(
        experiment.model, place.device, experiment.precision, experiment.parts, experiment.runtime
    )
    texts = [
        text
        for prompt in experiment.prompts
        for text in experiment.camera_sampler.prompts_by_view(prompt)
    ]
    prior.condition(texts)  # a prompt this model cannot hear is told before a folder is made
    if place.dry:
        print(rehearsed(Run(experiment, prior)))
        return
    with going_on(command), watched:
        print(
            record(
                experiment,
                prior,
                folder,
                every=place.every,
                command=command,
                mirror=place.mirror,
                diagnose=place.diagnose,
            )
        )


def watching(folder: Path, experiment: Experiment) -> AbstractContextManager[None]:
    """A viewer in a process of its own, which begins and ends with the context; ValueError where particles are flat."""
    from limbeck.runs.reopen import refuse_flat
    from limbeck.runs.viewer import beside

    refuse_flat(folder, experiment)
    return beside(folder)
