"""One run of a sweep as one call, which a process pool, Ray or a batch system can make."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from limbeck.config.own_errors import OwnCodeError
from limbeck.config.yaml import from_yaml, to_yaml
from limbeck.graphics.export.png import NonFiniteImageError
from limbeck.priors.loading import load
from limbeck.runs.best_stage import choose_stage
from limbeck.runs.error_file import error_summary
from limbeck.runs.final_products import read_failures
from limbeck.runs.folder_state import is_finished, refuse_other_experiment
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import DEFAULT_RECORDING, RecordingOptions
from limbeck.runs.stage import StagePosition
from limbeck.system.finite import NonFiniteError
from limbeck.system.interrupt import raise_on_termination
from limbeck.system.out_of_memory import is_out_of_memory
from limbeck.training.collapse import DegenerateRunError
from limbeck.training.experiment import Experiment
from limbeck.training.resources import check_weights_fit


@dataclass(frozen=True)
class RunTask:
    """All that a process needs to make or continue a run; plain values only, so it can be sent.

    Attributes:
        name: name of the run in its sweep.
        stages: folder and configuration (YAML of ``Experiment``) of each stage, in order.
        device: as for ``limbeck.load``.
        threads: threads of torch on the CPU; 0 leaves them.
        recording: what is written into its folders, and how often.
        command: command line, for the record.
        uses_network: whether its model is a network; its modules take long to import.
    """

    name: str
    stages: tuple[tuple[str, str], ...]
    device: str = "auto"
    threads: int = 0
    recording: RecordingOptions = DEFAULT_RECORDING
    command: str = ""
    uses_network: bool = True


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        name: name of the run in its sweep.
        kind: ``finished``, ``interrupted`` by a signal that left a checkpoint, ``killed``,
            ``out of memory``, ``stopped`` by a value that is not finite or a collapse, ``refused``
            input, a mistake in ``own code``, or ``error``.
        message: why, in one line; empty if it finished.
    """

    name: str
    kind: str
    message: str = ""

    @property
    def is_input(self) -> bool:
        """Whether the fault is in what was given, and the same command cannot work."""
        return self.kind in ("refused", "own code")

    @property
    def is_final(self) -> bool:
        """Whether the run would end so again: it is stopped by its own numbers."""
        return self.kind == "stopped"

    @property
    def may_retry(self) -> bool:
        """Whether another attempt can end differently."""
        return self.kind in ("killed", "out of memory", "error")


def stage_texts(experiments: Mapping[Path, Experiment]) -> tuple[tuple[str, str], ...]:
    """Folder and configuration of each stage, as ``RunTask`` has them.

    Args:
        experiments: experiment by run folder, in order.
    """
    return tuple((str(folder), to_yaml(e)) for folder, e in experiments.items())


def execute_run(task: RunTask) -> RunOutcome:
    """Make a run, or continue it from its last checkpoint; errors are returned, not raised.

    Args:
        task: what to run.
    """
    if task.threads:
        torch.set_num_threads(task.threads)
    try:
        with raise_on_termination():
            problems = _execute_stages(task)
    except KeyboardInterrupt:
        return RunOutcome(task.name, "interrupted", "stopped after a checkpoint")
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return RunOutcome(task.name, _kind_of(error), error_summary(error))
    return RunOutcome(task.name, "error" if problems else "finished", "; ".join(problems))


def _execute_stages(task: RunTask) -> list[str]:
    """Run all stages in order; returns what could not be written."""
    experiments = {Path(folder): from_yaml(Experiment, text) for folder, text in task.stages}
    total = len(experiments)
    for number, (folder, experiment) in enumerate(experiments.items(), 1):
        refuse_other_experiment(folder, experiment)
        if is_finished(folder, experiment):
            continue
        check_weights_fit(experiment, task.device)
        prior = load(experiment.model, task.device, experiment.precision, experiment.runtime)
        later = sum(e.steps for e in list(experiments.values())[number:])
        record(
            experiment,
            prior,
            folder,
            task.recording,
            task.command,
            stage=StagePosition(number, total, folder.name.partition("-")[2], later),
        )
    if total > 1:
        choose_stage(list(experiments), task.device)  # which exports take
    return [problem for folder in experiments for problem in read_failures(folder)]


def _kind_of(error: Exception) -> str:
    if is_out_of_memory(error):
        return "out of memory"
    chain, cause = [error], error.__cause__ or error.__context__
    while isinstance(cause, Exception):  # the images of a step that is not finite may fail first
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    numbers = (NonFiniteError, NonFiniteImageError, DegenerateRunError)
    if any(isinstance(link, numbers) for link in chain):
        return "stopped"
    if any(isinstance(link, OwnCodeError) for link in chain):
        return "own code"
    return "refused" if isinstance(error, ValueError) else "error"
