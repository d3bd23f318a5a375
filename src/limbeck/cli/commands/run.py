"""optimize particles for one or more prompts into a run folder"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.runs.stage import ONLY_STAGE, StagePosition
from limbeck.system.folder_lock import folder_lock, refuse_folder_in_use
from limbeck.system.notices import notify
from limbeck.training.presets.base import Preset, apply_shared_options, start_stage_from

if TYPE_CHECKING:
    from limbeck.diffusion.prior import Prior
    from limbeck.runs.run_command import RunCommand, RunOptions
    from limbeck.training.experiment import Experiment
    from limbeck.training.resources import ResourcePlan


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck run``: start or resume one run, or the stages of a preset."""
    from limbeck.cli.run_folder import exit_if_incomplete
    from limbeck.runs.run_command import read_run_command

    command = read_run_command(argv)
    text = shlex.join(["limbeck", "run", *argv])
    if command.has_stages:
        return run_stages(command, text)
    options = command.options
    if command.preset is not None and command.preset.stops_early:
        best, final = command.preset.best_world_stage, command.preset.final_stage
        notify(
            f"this recipe stops after its stage {best} on the embedded model; with "
            f"--preset.last-stage {final} it runs the later ones too, as a new run in a folder of "
            "its own"
        )
    run_one(
        command.experiment, options, command.folder, text, options.viewer, preset=command.preset
    )
    exit_if_incomplete(command.folder)


def run_stages(command: RunCommand, text: str) -> None:
    """Run the stages of a preset into subfolders; each starts from the result of the previous one.

    Args:
        command: the command, whose preset has several stages.
        text: the command line.
    """
    from limbeck.cli.run_folder import exit_if_incomplete
    from limbeck.config.discovery import component_name
    from limbeck.runs.best_stage import choose_stage
    from limbeck.runs.folder_state import refuse_single_run
    from limbeck.runs.report.pages import write_recipe_report
    from limbeck.system.launch import launched_index
    from limbeck.system.processes import wait_for_processes
    from limbeck.training.resources import total_plan

    options, preset = command.options, command.preset
    assert preset is not None
    parent, recipe = command.folder, component_name(type(preset))
    show = options.viewer and not options.dry_run
    refuse_folder_in_use(parent)
    refuse_single_run(parent)
    stages = _checked_stages(command)
    later, plans = sum(stage.steps for stage in stages.values()), []
    with ExitStack() as stack:
        if show:  # one page for all stages
            stack.enter_context(open_viewer(parent, command.experiment))
        # held from the first stage that starts to the end, also while the next model is loaded
        lock_parent = cache(lambda: stack.enter_context(folder_lock(parent)))
        for number, (folder, stage) in enumerate(stages.items(), 1):
            later -= stage.steps
            position = StagePosition(number, len(stages), folder.name.partition("-")[2], later)
            if options.dry_run:
                print(f"{folder.name}: ", end="", flush=True)
            plans += [run_one(stage, options, folder, text, False, position, lock_parent, preset)]
            wait_for_processes()  # the next stage reads the result, which process 0 has written
    if options.dry_run:
        print(total_plan([plan for plan in plans if plan is not None]))
    elif launched_index() == 0:
        folders = list(stages)
        messages = choose_stage(folders, options.device)
        print(write_recipe_report(parent, folders, recipe.rpartition(":")[2], messages))
        exit_if_incomplete(parent)


def _checked_stages(command: RunCommand) -> dict[Path, Experiment]:
    """Return the stages by folder, all of them checked before the first one starts."""
    chosen, options = command.experiment, command.options
    first = next(iter(command.stages.values()))
    stages: dict[Path, Experiment] = {}
    for number, (name, stage) in enumerate(command.stages.items(), 1):
        folder = command.folder / f"{number}-{name}"
        try:
            stage = apply_shared_options(first, chosen, stage)
            if stages and not options.dry_run:  # which writes nothing that a stage could start from
                stage = start_stage_from(stage, list(stages)[-1])
            _check_start(stage, options, folder)
        except ValueError as error:
            if not stages:
                raise
            raise ValueError(f"stage {name}: {error}") from error
        stages[folder] = stage
    return stages


def _check_start(experiment: Experiment, options: RunOptions, folder: Path) -> None:
    """Check the folder and, unless it holds the finished run, what needs no model."""
    from limbeck.cli.run_folder import check_run_folder
    from limbeck.runs.early_checks import check_before_loading
    from limbeck.runs.folder_state import is_finished

    check_run_folder(folder, experiment)
    if options.dry_run or not is_finished(folder, experiment):
        check_before_loading(experiment, options)


def run_one(
    experiment: Experiment,
    options: RunOptions,
    folder: Path,
    command: str,
    viewer: bool,
    position: StagePosition = ONLY_STAGE,
    before_start: Callable[[], None] = lambda: None,
    preset: Preset | None = None,
) -> ResourcePlan | None:
    """Start or resume one run and print its report, or the resources it needs if it is a dry run.

    Args:
        experiment: what to run.
        options: how the run is recorded.
        folder: run folder.
        command: the command line.
        viewer: show the run in the browser.
        position: which stage of a preset it is.
        before_start: called when all is checked and before anything is written.
        preset: the recipe that the options come from.

    Returns:
        The resources it needs if it is a dry run.
    """
    from limbeck.cli.run_folder import resume_hint
    from limbeck.runs.folder_state import finished_message, is_finished
    from limbeck.runs.recorder import record

    _check_start(experiment, options, folder)
    if is_finished(folder, experiment) and not options.dry_run:  # before the model is loaded
        print(finished_message(folder, experiment), file=sys.stderr)
        print(folder / "report.html", flush=True)
        return None
    watched = open_viewer(folder, experiment) if viewer else nullcontext()

    from limbeck.runs.closing_summary import closing_lines
    from limbeck.system.launch import launched_index
    from limbeck.training.resources import rehearse
    from limbeck.training.trainer import Run

    prior = _load_prior(experiment, options.device)
    if preset is not None:
        preset.check_prior(prior)
    if options.dry_run:
        plan = rehearse(Run(experiment, prior))
        print(plan)
        return plan
    before_start()
    with resume_hint(command), watched:
        recording, logger = options.recording, options.logger
        report = record(
            experiment, prior, folder, recording, command, logger=logger, stage=position
        )
    print(report, flush=True)
    if position.number == position.total and launched_index() == 0:
        print("\n".join(closing_lines(folder, experiment)), file=sys.stderr, flush=True)
    return None


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
