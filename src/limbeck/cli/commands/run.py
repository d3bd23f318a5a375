"""optimize particles for one or more prompts into a run folder"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.runs.loggers import Logger
from limbeck.runs.stage import ONLY_STAGE, StagePosition
from limbeck.system.folder_lock import folder_lock, refuse_folder_in_use
from limbeck.training.presets.base import Preset, apply_shared_options, start_stage_from

if TYPE_CHECKING:
    from limbeck.diffusion.prior import Prior
    from limbeck.training.experiment import Experiment

NO_PROMPTS = ("(a prompt)",)  #: prompts of a preset before the command line gives some
SHORT_HELP = (
    "prompts",
    "preset",
    "method",
    "representation",
    "model",
    "steps",
    "particles",
    "lr",
    "image",
    "out",
    "logger",
    "viewer",
)


@dataclass(frozen=True)
class StartOptions:
    """Where the defaults of the options come from.

    Attributes:
        preset: recipe of a paper, possibly in several stages, whose options are the defaults.
        config: run.yaml of a run or its folder, whose options are the defaults.
    """

    preset: Preset | None = None
    config: Path | None = None


@dataclass(frozen=True)
class RunOptions:
    """How a run is recorded and watched.

    Attributes:
        lr: peak learning rate of the representation, short for --representation.lr.
        image: image of the object of a 3D run, cut out or on white, short for --reference.image.
        out: run folder; by default it is named after the prompt, the method and the options.
        image_every: steps between recorded images; 0 for about ten per run.
        checkpoint_every: steps between checkpoints; 0 for one every 30 seconds.
        device: auto, cpu, cuda, cuda:N or mps.
        viewer: show a 3D run in the browser while it runs.
        logger: where metrics and images go besides the run folder.
        stop_on_collapse: abort a 3D run once its renders are empty or uniform fog.
        films: turntables, stills and meshes over time of a 3D run, which take up to a minute.
        dry_run: take three steps in memory and print time and memory of the run; write nothing.
    """

    lr: float | None = field(default=None, metadata={"minimum": 0})
    image: Path | None = None
    out: Path | None = None
    image_every: int = 0
    checkpoint_every: int = 0
    device: str = "auto"
    viewer: bool = False
    logger: Logger | None = None
    stop_on_collapse: bool = True
    films: bool = True
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name in ("image_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.viewer and not self.films:
            raise ValueError(
                "--viewer shows the meshes over time, which --no-films leaves out: give one of them"
            )


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck run``: start or resume one run, or the stages of a preset."""
    from limbeck.cli.run_folder import default_run_folder, exit_if_incomplete
    from limbeck.config.command_line import parse, value_of
    from limbeck.config.discovery import component_name
    from limbeck.config.yaml import read_yaml
    from limbeck.training.experiment import Experiment, with_lr
    from limbeck.training.model_defaults import CHOICES, default_experiment

    (start,) = parse([(StartOptions, None)], argv, lenient=True)
    if start.config is not None and start.preset is not None:
        raise ValueError("--config and --preset exclude each other: give one of them")
    stages = start.preset.stages(NO_PROMPTS) if start.preset is not None else {}
    first = next(iter(stages.values()), None)
    default = read_yaml(Experiment, _config_file(start.config)) if start.config else first
    if default is None:
        chosen = {part: value_of(argv, f"--{part}") for part in CHOICES}
        default = default_experiment(NO_PROMPTS, chosen)
    image = value_of(argv, "--image")
    words = [*argv] if image is None else ["--reference.image", image, *argv]
    experiment, _, options = parse(
        [(Experiment, default), (StartOptions, start), (RunOptions, None)],
        words,
        "limbeck run",
        "Optimize particles for each PROMPT into a run folder. The same command resumes a run.",
        "prompts",
        SHORT_HELP,
    )
    if experiment.prompts == NO_PROMPTS and experiment.reference.image is not None:
        experiment = replace(experiment, prompts=("",))
    if experiment.prompts == NO_PROMPTS:
        experiment.reference.check_effect()  # a recipe from an image lacks the image
        raise ValueError("a prompt is missing: give at least one text that is not empty")
    if start.preset is not None:
        start.preset.check_model(experiment.model)
    experiment = _with_found_folder(experiment)
    if options.lr is not None:
        experiment = with_lr(experiment, options.lr)
    command = shlex.join(["limbeck", "run", *argv])
    if first is None or len(stages) == 1:
        recipe = component_name(type(start.preset)) if start.preset is not None else ""
        folder = options.out or default_run_folder(experiment, recipe)
        run_one(experiment, options, folder, command, options.viewer, preset=start.preset)
        exit_if_incomplete(folder)
    else:
        run_stages(start.preset, first, experiment, options, command)


def _config_file(path: Path) -> Path:
    """The file that ``--config`` names: a run folder stands for its run.yaml."""
    from limbeck.cli.run_folder import find_folder

    path = find_folder(path)
    return path / "run.yaml" if path.is_dir() else path


def _with_found_folder(experiment: Experiment) -> Experiment:
    """The experiment with the run that ``init_from latest`` stands for."""
    from limbeck.cli.run_folder import find_folder

    start = experiment.representation.init_from
    if start is None or (found := find_folder(start)) == start:
        return experiment
    representation = replace(experiment.representation, init_from=found)  # type: ignore[call-arg]
    return replace(experiment, representation=representation)


def run_stages(
    preset: Preset, first: Experiment, chosen: Experiment, options: RunOptions, command: str
) -> None:
    """Run the stages of a preset into subfolders; each starts from the result of the previous one.

    Args:
        preset: the preset, which has several stages.
        first: its first stage without the options of the command line.
        chosen: its first stage with these options.
        options: how the runs are recorded.
        command: the command line.
    """
    from limbeck.cli.run_folder import exit_if_incomplete
    from limbeck.config.comparison import fingerprint
    from limbeck.config.discovery import component_name
    from limbeck.runs.best_stage import choose_stage
    from limbeck.runs.report.pages import write_recipe_report
    from limbeck.system.files import slug

    plain = replace(first, prompts=chosen.prompts)
    prompt, recipe = slug(chosen.prompts[0]), component_name(type(preset))
    name = f"{prompt}-{recipe}-{fingerprint(plain)}"
    parent = options.out or Path("runs") / name
    show = options.viewer and not options.dry_run
    previous, stages = None, preset.stages(NO_PROMPTS)
    later = sum(stage.steps for stage in stages.values())
    refuse_folder_in_use(parent)
    with ExitStack() as stack:
        if show:  # one page for all stages
            stack.enter_context(open_viewer(parent, chosen))
        # held from the first stage that starts to the end, also while the next model is loaded
        lock_parent = cache(lambda: stack.enter_context(folder_lock(parent)))
        for number, (name, stage) in enumerate(stages.items(), 1):
            later -= stage.steps
            position = StagePosition(number, len(stages), name, later)
            folder = parent / f"{number}-{name}"
            stage = apply_shared_options(first, chosen, stage)
            if previous is not None:
                stage = start_stage_from(stage, previous)
            if options.dry_run:  # nothing is written that the next stage could start from
                print(f"{folder.name}: ", end="", flush=True)
            else:
                previous = folder
            run_one(stage, options, folder, command, False, position, lock_parent, preset)
    if not options.dry_run:
        folders = [parent / f"{i}-{name}" for i, name in enumerate(stages, 1)]
        messages = choose_stage(folders, options.device)
        print(write_recipe_report(parent, folders, recipe.rpartition(":")[2], messages))
        exit_if_incomplete(parent)


def run_one(
    experiment: Experiment,
    options: RunOptions,
    out: Path,
    command: str,
    viewer: bool,
    position: StagePosition = ONLY_STAGE,
    before_start: Callable[[], None] = lambda: None,
    preset: Preset | None = None,
) -> None:
    """Start or resume one run and print its report, or the resources it needs if it is a dry run.

    Args:
        experiment: what to run.
        options: how the run is recorded.
        out: run folder.
        command: the command line.
        viewer: show the run in the browser.
        position: which stage of a preset it is.
        before_start: called when all is checked and before anything is written.
        preset: the recipe that the options come from.
    """
    from limbeck.cli.run_folder import check_run_folder, resume_hint
    from limbeck.runs.final_products import check_films
    from limbeck.runs.folder_state import finished_message, is_finished
    from limbeck.runs.recorder import record

    folder = out
    check_run_folder(folder, experiment)
    if is_finished(folder, experiment) and not options.dry_run:  # before the model is loaded
        print(finished_message(folder, experiment), file=sys.stderr)
        print(folder / "report.html", flush=True)
        return
    if options.logger is not None and not options.dry_run:
        options.logger.check_package()  # before the model is loaded
    check_films(experiment, options.films)
    experiment.representation.check_files()
    experiment.reference.read_images()  # refuses files before the model is loaded
    watched = open_viewer(folder, experiment) if viewer else nullcontext()

    from limbeck.runs.closing_summary import closing_lines
    from limbeck.system.launch import launched_index
    from limbeck.training.resources import rehearse
    from limbeck.training.trainer import Run

    prior = _load_prior(experiment, options.device)
    if preset is not None:
        preset.check_prior(prior)
    if options.dry_run:
        print(rehearse(Run(experiment, prior)))
        return
    before_start()
    with resume_hint(command), watched:
        report = record(
            experiment,
            prior,
            folder,
            image_every=options.image_every,
            checkpoint_every=options.checkpoint_every,
            command=command,
            logger=options.logger,
            stop_on_collapse=options.stop_on_collapse,
            stage=position,
            films=options.films,
        )
    print(report, flush=True)
    if position.number == position.total and launched_index() == 0:
        print("\n".join(closing_lines(folder, experiment)), file=sys.stderr, flush=True)


def _load_prior(experiment: Experiment, device: str) -> Prior:
    """Load the model of a run, if it fits into memory and knows the prompts."""
    from limbeck.priors.loading import load, notify_unknown_words
    from limbeck.training.resources import check_weights_fit
    from limbeck.training.run_prompts import prompts_by_view

    notify_unknown_words(experiment.model, experiment.all_prompts)
    check_weights_fit(experiment, device)
    prior = load(experiment.model, device, experiment.precision, experiment.runtime)
    if message := default_precision_message(experiment, prior.device):
        print(message, file=sys.stderr)
    prior.condition(prompts_by_view(experiment, prior))  # refuses unknown words early
    return prior


def default_precision_message(experiment: Experiment, device: str) -> str:
    """What is said where auto takes 16 bits on a CPU; else an empty text."""
    import torch

    from limbeck.diffusion.model_options import Model
    from limbeck.priors.loading import is_exact, pick_precision

    is_auto = experiment.precision == "auto" and device == "cpu"
    is_own = not isinstance(experiment.model, Model)
    if not is_auto or is_own or is_exact(experiment.model):
        return ""
    if pick_precision("auto", device) != torch.bfloat16:
        return ""
    return "frozen weights in bfloat16, as this processor has it; --precision float32 for 32 bits"


def open_viewer(folder: Path, experiment: Experiment) -> AbstractContextManager[None]:
    """A viewer in its own process while the context is open.

    Raises:
        ValueError: if the representation is not 3D.
    """
    from limbeck.runs.reopen import require_3d
    from limbeck.runs.viewer import viewer_process

    require_3d(folder, experiment)
    return viewer_process(folder)
