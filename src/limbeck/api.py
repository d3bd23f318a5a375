"""The Python API: distill, edit or sample in one call, with the options of the command line.

Components can be given as objects, ``method=lb.methods.VSD(guidance=7.5)``, or by the name that
they have on the command line, ``method="vsd"``.
"""

from __future__ import annotations

import contextlib
import tempfile
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from limbeck.config.discovery import (
    OWN_FILE,
    base_of,
    component_name,
    field_name,
    find,
    name_of,
    options_of,
    union_members,
    unknown_name,
)
from limbeck.config.renamed import current_option
from limbeck.config.yaml import read_component, refused_value, to_plain
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import Sampling
from limbeck.methods.base import EditMethod, Method
from limbeck.priors.digest import prior_digest
from limbeck.priors.loading import load, notify_unknown_words
from limbeck.representations.base import RepresentationConfig
from limbeck.runs.best_stage import choose_stage
from limbeck.runs.edit_inputs import EditInputs
from limbeck.runs.edit_options import default_method, default_options
from limbeck.runs.editing import (
    edit_experiments,
    edit_folders,
    edit_prompts,
    edit_to_folder,
)
from limbeck.runs.final_products import check_films
from limbeck.runs.folder_results import DistillResult, EditResult, SampleResult
from limbeck.runs.folder_state import refuse_single_run
from limbeck.runs.loggers import Logger
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.report.pages import write_recipe_report
from limbeck.runs.run_command import given_twice
from limbeck.runs.sample_recorder import find_sampled_run, sample_to_folder
from limbeck.system.launch import launched_index
from limbeck.system.processes import wait_for_processes
from limbeck.training.experiment import Experiment, with_lr
from limbeck.training.idle_options import notify_idle_options
from limbeck.training.model_defaults import default_experiment
from limbeck.training.presets.base import Preset, apply_shared_options, start_stage_from
from limbeck.training.source_images import check_edit_source

T = TypeVar("T")
ImagePath = str | Path

_UNNAMED_MODEL = "made in Python"  #: recorded, with its digest, for a prior without a name


def distill(
    prompts: str | Sequence[str],
    model: str | Model | Prior | None = None,
    *,
    preset: str | Preset | None = None,
    method: str | Method | None = None,
    representation: str | RepresentationConfig | None = None,
    steps: int | None = None,
    particles: int | None = None,
    lr: float | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    image_every: int = 0,
    checkpoint_every: int = 0,
    logger: str | Logger | None = None,
    stop_on_collapse: bool = True,
    films: bool = True,
    **options: Any,
) -> DistillResult:
    """Optimize particles for one or more prompts.

    Args:
        prompts: one or more prompts.
        model: name of a model such as ``"world"``, a ``Model``, or a prior, for instance of
            ``limbeck.load``. None: ``"world"``, or that of the preset.
        preset: recipe of a paper whose options are the defaults, such as ``"dreamfusion"``.
        method: distillation method, such as ``"vsd"``. A name has the options that suit the
            embedded model if that is the model, and guidance scale 1 on an exact prior; an object
            has those of the paper.
        representation: what is optimized, such as ``"latents"`` or ``"nerf"``.
        steps: number of optimization steps.
        particles: particles per prompt.
        lr: peak learning rate of the representation.
        out: run folder, or parent folder of the stages of a preset; an unfinished run in it is
            continued. None: a temporary folder.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``, unless the model is a prior.
        image_every: steps between recorded images; 0 for about ten per run.
        checkpoint_every: steps between checkpoints; 0 for every 30 seconds.
        logger: also send metrics and images to ``"tensorboard"`` or ``"wandb"``.
        stop_on_collapse: abort a 3D run once its renders are empty or uniform fog.
        films: write turntables, stills and meshes over time of a 3D run.
        **options: other fields of ``Experiment``, such as ``timesteps="two-stage"`` or ``seed=1``.

    Raises:
        ValueError: if an option is unknown or its value cannot be used.
    """
    texts = _texts(prompts, "prompts")
    recipe = find(Preset, preset)() if isinstance(preset, str) else preset
    choices = {"model": model, "method": method, "representation": representation}
    stages = {"": default_experiment(texts, choices)} if recipe is None else recipe.stages(texts)
    named = choices | {"steps": steps, "particles": particles}
    given = options | {name: value for name, value in named.items() if value is not None}
    chosen, prior = _first_stage(next(iter(stages.values())), given, lr, recipe)
    check_films(chosen, films)
    check_edit_source(chosen, prior or chosen.model)
    logger = find(Logger, logger)() if isinstance(logger, str) else logger
    recording = RecordingOptions(image_every, checkpoint_every, stop_on_collapse, films)
    recorder = partial(record, options=recording, logger=logger)
    runs = _stage_runs(stages, chosen, _output_folder(out))
    results = _record_stages(runs, prior, device, recorder, recipe)
    return replace(results[-1], stages=results if len(results) > 1 else ())


def _first_stage(
    default: Experiment, given: Mapping[str, Any], lr: float | None, recipe: Preset | None
) -> tuple[Experiment, Prior | None]:
    """The first stage with the options of the call, and the prior if it is loaded already."""
    prior, own = None, given.get("representation")
    if lr is not None and isinstance(own, Mapping) and "lr" in own:
        raise given_twice("lr", "the lr of the representation")
    if "model" in given:
        recorded, prior = _recorded_model(given["model"])
        given = {**given, "model": recorded}
    chosen = _with_options(default, given)
    notify_idle_options(chosen.representation, default.representation)
    if lr is not None and (isinstance(lr, bool) or not isinstance(lr, int | float)):
        raise refused_value("lr", lr, float)
    if recipe is not None:
        recipe.check_model(prior or chosen.model)
        recipe.check_start(chosen)
    return (chosen if lr is None else with_lr(chosen, lr)), prior


def _record_stages(
    runs: Iterable[tuple[Experiment, Path]],
    prior: Prior | None,
    device: str,
    recorder: Callable[[Experiment, Prior, Path], object],
    recipe: Preset | None,
) -> tuple[DistillResult, ...]:
    """Run experiments one after another, each in its folder, and choose the best of them.

    The prior is loaded if it is None.
    """
    results, runs = [], list(runs)
    for experiment, _ in runs:  # refuses files before the first model is loaded
        experiment.reference.read_images()
        experiment.reference.check_effect_on(experiment.representation)
    for experiment, folder in runs:
        stage_prior = prior
        notify_unknown_words(stage_prior or experiment.model, experiment.all_prompts)
        if stage_prior is None:
            stage_prior = load(experiment.model, device, experiment.precision, experiment.runtime)
        if recipe is not None:
            recipe.check_prior(stage_prior)
        recorder(experiment, stage_prior, folder)
        results.append(DistillResult(folder, experiment, stage_prior))
        if len(runs) > 1:
            wait_for_processes()  # the next stage reads the result, which process 0 has written
    if launched_index() == 0:
        folders = [result.folder for result in results]
        messages = choose_stage(folders, device)
        if recipe is not None and len(folders) > 1:
            name = component_name(type(recipe)).rpartition(":")[2]
            write_recipe_report(folders[0].parent, folders, name, messages)
    return tuple(results)


def _stage_runs(
    stages: Mapping[str, Experiment], chosen: Experiment, folder: Path
) -> Iterator[tuple[Experiment, Path]]:
    """Experiment and run folder of each stage.

    Args:
        stages: stages of a preset, or a single one.
        chosen: the first stage with the user's options.
        folder: run folder, or parent of the stages if there are several.
    """
    first, *later = stages.values()
    if not later:
        yield chosen, folder
        return
    refuse_single_run(folder)
    previous = None
    for number, (name, stage) in enumerate(stages.items(), 1):
        experiment = apply_shared_options(first, chosen, stage)
        if previous is not None:
            experiment = start_stage_from(experiment, previous)
        previous = folder / f"{number}-{name}"
        yield experiment, previous


def edit(
    images: ImagePath | Sequence[ImagePath],
    target_prompt: str | Sequence[str],
    source_prompt: str | Sequence[str] = (),
    model: str | Model | Prior = "world",
    *,
    method: str | EditMethod | None = None,
    mask: ImagePath | Sequence[ImagePath] = (),
    out: str | Path | None = None,
    device: str = "auto",
    image_every: int = 0,
    **options: Any,
) -> EditResult:
    """Edit images from a source prompt to a target prompt, each given once for all or per edit.

    Args:
        images: image files.
        target_prompt: what the images should show.
        source_prompt: what the images show now. SDEdit and models that follow instructions need
            none.
        model: as for ``distill``.
        method: editing method, such as ``"pds"``; the other defaults are those that suit it and
            the model. None: ``"flow-edit"`` for the embedded model and flows, ``"sdedit"`` for a
            model that follows instructions, else ``"dds"``.
        mask: image files, white where the image may change.
        out: run folder; an unfinished edit in it is continued. None: a temporary folder.
        device: as for ``distill``.
        image_every: steps between recorded images; 0 for about ten per run.
        **options: other fields of ``limbeck.runs.edit_options.EditOptions``, such as ``steps`` or
            ``lr``.

    Raises:
        ValueError: if an image, a mask, a prompt or an option cannot be used.
    """
    inputs = EditInputs(
        tuple(map(Path, _as_tuple(images, "images"))),
        _texts(target_prompt, "target_prompt"),
        _texts(source_prompt, "source_prompt"),
        tuple(map(Path, _as_tuple(mask, "mask"))),
    )
    recorded, prior = _recorded_model(model)
    known = recorded if prior is None else prior
    method = default_method(known) if method is None else method
    cls = find(EditMethod, method) if isinstance(method, str) else type(method)
    defaults = default_options(cls, known)
    if not isinstance(method, str):
        defaults = replace(defaults, method=method)
    settings = _with_options(defaults, {**options, "model": recorded})
    notify_unknown_words(prior or settings.model, edit_prompts(inputs, settings))
    if prior is None:
        prior = load(settings.model, device, settings.precision, settings.runtime)
    folder = _output_folder(out)
    edit_to_folder(inputs, settings, prior, folder, image_every=image_every)
    runs = edit_folders(folder, edit_experiments(inputs, settings, prior))
    return EditResult(
        folder, tuple(DistillResult(path, experiment, prior) for path, experiment in runs.items())
    )


def sample(
    prompts: str | Sequence[str],
    model: str | Model | Prior = "world",
    *,
    out: str | Path | None = None,
    device: str = "auto",
    **options: Any,
) -> SampleResult:
    """Sample images from a model by DDIM or ancestral sampling.

    Args:
        prompts: one or more prompts.
        model: as for ``distill``.
        out: output folder. None: a temporary folder.
        device: as for ``distill``.
        **options: other fields of ``Sampling``, such as ``num_images`` or ``guidance``.

    Raises:
        ValueError: if an option is unknown or its value cannot be used.
    """
    texts = _texts(prompts, "prompts")
    recorded, prior = _recorded_model(model)
    sampling = find_sampled_run(_with_options(Sampling(texts), {**options, "model": recorded}))
    notify_unknown_words(prior or sampling.model, (*sampling.prompts, sampling.negative_prompt))
    if prior is None:
        prior = load(sampling.model, device, sampling.precision, sampling.runtime)
    folder = _output_folder(out)
    sample_to_folder(sampling, prior, folder)
    return SampleResult(folder, sampling, prior)


def _recorded_model(model: str | Model | Prior) -> tuple[str | Model | Prior, Prior | None]:
    """The model as an option of an experiment, and the prior if it is loaded already."""
    if isinstance(model, str | Model):
        return model, None
    if OWN_FILE.fullmatch(name_of(type(model))):
        with contextlib.suppress(yaml.YAMLError):  # an option is a tensor, for instance
            yaml.safe_dump(to_plain(model, Model))
            return model, model
    return f"{_UNNAMED_MODEL}, {prior_digest(model)}", model


def _with_options(config: T, options: Mapping[str, Any]) -> T:
    """Replace options of a frozen dataclass; components may be given by name.

    Raises:
        ValueError: if an option is unknown, or no component has the name.
    """
    known, values = options_of(type(config), config), {}
    for name, value in options.items():
        if name not in known:
            new = current_option(type(config), name)
            if new != name:
                raise ValueError(f"{name} is now {new}")
            raise unknown_name(f"option of {type(config).__name__}", name, known)
        hint, default = known[name]
        base = base_of(hint)
        if base is not None and isinstance(value, str | Mapping):
            value = read_component(base, value, name, default)
        elif typing.get_origin(hint) is tuple:
            value = _as_tuple(value, name)
        elif isinstance(value, str) and {Path, str} & {*union_members(hint)} == {Path}:
            value = _as_path(value, name)
        values[field_name(name)] = value
    return replace(config, **values)  # type: ignore[type-var]


def _output_folder(out: str | Path | None) -> Path:
    if out is None:
        return Path(tempfile.mkdtemp(prefix="limbeck-"))
    folder = _as_path(out, "out")
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"out {folder} cannot be a folder: {path} is a file; give another out")
    return folder


def _as_path(value: str | Path, name: str) -> Path:
    """A path as on the command line, where ``~`` is expanded and no path is empty."""
    if value == "":
        raise ValueError(f"{name} must be a path, not ''")
    with contextlib.suppress(RuntimeError):  # no user of this name: a file may be called ~x
        return Path(value).expanduser()
    return Path(value)


def _texts(value: str | Sequence[str], name: str) -> tuple[str, ...]:
    texts = _as_tuple(value, name)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{name} must be a text or several, not {text!r}")
    return texts


def _as_tuple(value: Any, name: str) -> tuple[Any, ...]:
    if isinstance(value, str | Path):
        return (value,)
    if not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a text or a list, not {value!r}")
    return tuple(value)
