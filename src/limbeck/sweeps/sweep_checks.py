"""Refuse a sweep that cannot be run, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.config import yaml as config
from limbeck.config.comparison import absolute_paths
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import Prior
from limbeck.priors.hub import resolve_model
from limbeck.priors.loading import (
    EMBEDDED_MODELS,
    is_exact,
    load,
    notify_unknown_words,
    pick_device,
)
from limbeck.runs.folder_state import foreign_files, keeps_steps, refuse_other_experiment
from limbeck.runs.own_files import changed_own_files
from limbeck.sweeps.guidance_notice import notify_different_guidance
from limbeck.sweeps.planned_runs import PlannedRun, with_found_names
from limbeck.sweeps.sweep_file import is_sweep_folder
from limbeck.system.folder_lock import refuse_folder_in_use
from limbeck.training.resources import check_weights_fit
from limbeck.training.run_prompts import prompts_by_view


def check_sweep(runs: Sequence[PlannedRun], root: Path, device: str | None) -> list[PlannedRun]:
    """Refuse what cannot be run, before anything is written.

    Args:
        runs: the planned runs.
        root: folder of the sweep.
        device: as for ``limbeck.load``; None if other machines make the runs, whose devices and
            memory are not known here.

    Returns:
        The runs with the names of the folders that they have.

    Raises:
        ValueError: if the folder holds files of something else or is in use, if a run folder holds
            another run or one of other code, or if a model cannot take the prompts or does not fit
            into memory.
    """
    refuse_folder_in_use(root)
    if not is_sweep_folder(root) and (names := foreign_files(root)):
        raise ValueError(
            f"{root} holds files already ({names[0]}), and nothing is overwritten; choose another "
            "folder with --out"
        )
    return check_runs(runs, root, device)


def check_runs(runs: Sequence[PlannedRun], root: Path, device: str | None) -> list[PlannedRun]:
    """Refuse what cannot be run, as ``check_sweep``, in a folder that holds other files as well.

    Args:
        runs: the planned runs.
        root: folder of their run folders.
        device: as for ``check_sweep``.

    Raises:
        ValueError: as ``check_sweep``, except for other files.
    """
    runs = with_found_names(runs, root)
    for run in runs:
        for folder, experiment in run.experiments(root).items():
            refuse_folder_in_use(folder)
            _refuse_other_run(folder, experiment)
    refuse_changed_files(runs, root)
    _check_models(runs, device)
    for stage in dict.fromkeys(name for run in runs for name in run.stages):
        notify_different_guidance(run.stages[stage].method for run in runs if stage in run.stages)
    return runs


def refuse_changed_files(runs: Sequence[PlannedRun], root: Path) -> None:
    """Refuse runs that have taken steps before a file of the user's own has changed."""
    changed: dict[str, str] = {}
    for run in runs:
        for folder, experiment in run.experiments(root).items():
            if keeps_steps(folder) and (files := changed_own_files(folder, experiment)):
                changed[folder.relative_to(root).parts[0]] = files[0]
    if changed:
        names = list(changed)
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ValueError(
            f"{changed[names[0]]} has changed since {len(names)} of these runs: one table must not "
            f"mix two versions; choose another folder with --out, or delete from {root} "
            f"{', '.join(names[:3])}{others}"
        )


def _refuse_other_run(folder: Path, experiment: Any) -> None:
    """Refuse a folder of another run; a hash of eight digits may occur twice."""
    path = folder / "run.yaml"
    if path.is_file():  # YAML of hundreds of runs that have not started would take seconds
        text = config.to_yaml(absolute_paths(experiment))
        if path.read_text(encoding="utf-8") == text:
            return
    refuse_other_experiment(folder, experiment)


def _check_models(runs: Sequence[PlannedRun], device: str | None) -> None:
    """Refuse models that do not exist or fit, and prompts that one does not know, once for each.

    Files that are to be downloaded are, so that the runs do not download them all at once.
    """
    if device is not None:
        pick_device(device)
    checked, priors = set[str](), dict[str, Prior]()
    for e in [stage for run in runs for stage in run.stages.values()]:
        key = repr((e.model, e.all_prompts, e.representation, e.precision, e.cameras, e.total))
        if key in checked:
            continue
        checked.add(key)
        notify_unknown_words(e.model, e.all_prompts)
        if device is not None:
            check_weights_fit(e, device)
        if not isinstance(e.model, Model):
            continue
        model = repr((e.model, e.runtime))
        if is_exact(e.model):
            if model not in priors:
                priors[model] = load(e.model, device or "cpu", e.precision, e.runtime)
            priors[model].condition(prompts_by_view(e, priors[model]))
        elif model not in checked and str(e.model) not in EMBEDDED_MODELS:
            resolve_model(str(e.model))
            checked.add(model)
