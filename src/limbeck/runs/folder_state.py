"""What a run folder holds: nothing, this run, another one, or files of someone else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from limbeck.config import yaml as config
from limbeck.config.comparison import differences
from limbeck.runs.extending import refuse_other_steps
from limbeck.runs.final_products import FAILURES
from limbeck.runs.own_files import changed_own_files
from limbeck.runs.report.live import is_live
from limbeck.system.checkpoint import read_metadata
from limbeck.system.folder_lock import LOCK_FILE
from limbeck.training.experiment import Experiment

CHECKPOINT = "checkpoint.safetensors"
FAILED_STEP = "failure.safetensors"  #: inputs of the step in which a value was not finite
OUTPUT_FILE = "output.txt"  #: what the process printed, of a run that the Studio has started
#: what may be in a folder before its run.yaml
_BEFORE_START = (LOCK_FILE, "edit", OUTPUT_FILE)


def keeps_steps(folder: Path) -> bool:
    """Whether a run goes on from a step, or was stopped at one for good; else it begins anew."""
    return (folder / CHECKPOINT).exists() or (folder / FAILED_STEP).exists()


def is_finished(folder: Path, experiment: Experiment) -> bool:
    """Whether a folder holds all steps of an experiment and all that is written after them."""
    checkpoint, report = folder / CHECKPOINT, folder / "report.html"
    files = (checkpoint, report, folder / "profile.json")
    if not all(file.exists() for file in files) or is_live(report):
        return False
    if (folder / FAILURES).exists():
        return False
    return bool(read_metadata(checkpoint)["step"] == experiment.steps)


def finished_message(folder: Path, experiment: Experiment) -> str:
    """What is said instead of running a finished run again."""
    message = f"{folder} has this run, finished after {experiment.steps} steps: "
    if changed := changed_own_files(folder, experiment):
        return (
            message + f"but {changed[0]} has changed since then; to run it as it is now, choose "
            "another folder with --out, or delete this one"
        )
    return message + "nothing to do"


def refuse_unfinished(folder: Path, experiment: Experiment) -> None:
    """Check that a run has taken all of its steps.

    Args:
        folder: run folder.
        experiment: its experiment.

    Raises:
        ValueError: if it has not.
    """
    checkpoint = folder / CHECKPOINT
    step = read_metadata(checkpoint)["step"] if checkpoint.exists() else 0
    if step < experiment.steps:
        if (folder / FAILED_STEP).exists():
            failed = read_metadata(folder / FAILED_STEP)
            raise ValueError(
                f"{folder} was stopped at step {failed['step']} of {experiment.steps}, because "
                f"{failed['cause']} was not finite: mend that, and run it in another folder"
            )
        raise ValueError(
            f"{folder} is unfinished, {step} of {experiment.steps} steps: resume it with the "
            "command in its command.txt"
        )


def foreign_files(folder: Path) -> list[str]:
    """Names of the files in a folder that no run was killed over before it wrote its run.yaml."""
    if not folder.is_dir():
        return []
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name not in _BEFORE_START and not name.endswith(".part")]


def refuse_single_run(folder: Path) -> None:
    """Check that a folder for several stages is not a run itself.

    Raises:
        ValueError: if it is; its page would be replaced.
    """
    if (folder / "run.yaml").exists():
        raise ValueError(
            f"{folder} holds a run of one stage, and several stages need a folder of their own: "
            "choose another folder or delete this one"
        )


def refuse_other_experiment(folder: Path, experiment: Experiment) -> None:
    """Check that a folder is free or holds a run that goes on as the experiment.

    Raises:
        ValueError: otherwise; the message names the first option that differs, what to do instead
            if it is the number of steps, or a file that is not of a run.
    """
    path = folder / "run.yaml"
    if path.exists():
        old = config.read_yaml(Experiment, path)
        changed = differences(old, experiment)
        same = replace(old, steps=experiment.steps)
        if changed and not differences(same, experiment):
            refuse_other_steps(folder, old, experiment)
        elif changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ValueError(
                f"{folder} holds another run: {', '.join(changed[:3])}{more}; choose another "
                "folder or delete this one"
            )
    elif (folder / "sample.yaml").exists():
        raise ValueError(f"{folder} holds samples, not a run: choose another folder")
    elif names := foreign_files(folder):
        raise ValueError(
            f"{folder} holds files already ({names[0]}), and nothing is overwritten; choose "
            "another folder"
        )
