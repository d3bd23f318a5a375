"""Image editing: the run of an edit and its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from limbeck.config.comparison import fingerprint
from limbeck.config.discovery import component_name
from limbeck.diffusion.prior import Prior
from limbeck.priors.families import follows_instructions
from limbeck.representations.base import RepresentationConfig, fitted_size
from limbeck.representations.inpainting import Inpainting
from limbeck.representations.latents import Latents
from limbeck.representations.noise import NoiseMap
from limbeck.runs.edit_inputs import EditInputs, EditItem
from limbeck.runs.edit_options import EditOptions
from limbeck.runs.folder_state import is_finished, refuse_other_experiment
from limbeck.runs.images import heat_map, image_grid, particle_stems, save_png
from limbeck.runs.recorder import record
from limbeck.runs.recording_options import RecordingOptions
from limbeck.runs.report import pages
from limbeck.system.files import slug
from limbeck.system.folder_lock import folder_lock, refuse_folder_in_use
from limbeck.system.image_files import image_file_size, read_image
from limbeck.system.launch import launched_index
from limbeck.system.notices import notify
from limbeck.training.experiment import Experiment
from limbeck.training.resources import ResourcePlan, rehearse
from limbeck.training.trainer import Run

GRADIENT_MAP_STEPS = 16  #: the gradient map is the mean gradient over this many first steps
_DIFFERENCE_MAX = 0.5  #: difference at the top of the color scale


def edit_prompts(inputs: EditInputs, options: EditOptions) -> tuple[str, ...]:
    """All prompts of edits; an absent negative prompt is ""."""
    return (*inputs.target_prompt, *inputs.source_prompt, options.negative_prompt)


def notify_inputs(inputs: EditInputs, prior: Prior) -> None:
    """Give notice of prompts that change nothing, and of images that the model shrinks.

    Args:
        inputs: images, prompts and masks.
        prior: the model.
    """
    for prompt in dict.fromkeys(
        edit.target_prompt for edit in inputs.edits() if edit.target_prompt == edit.source_prompt
    ):
        notify(f'"{prompt}" is the source and the target prompt: there is nothing to change')
    shrunk: dict[tuple[int, int], list[tuple[Path, tuple[int, int]]]] = {}
    for path in dict.fromkeys(inputs.images):
        width, height = image_file_size(path)
        size = fitted_size(path, prior)
        if min(width, height) > min(size):
            shrunk.setdefault(size, []).append((path, (width, height)))
    advice = "" if inputs.mask else "; a --mask, white where it may change, keeps the rest as it is"
    for (height, width), images in shrunk.items():
        path, (full_width, full_height) = images[0]
        more = f" and {len(images) - 1} more images" if len(images) > 1 else ""
        notify(
            f"{path} ({full_width} x {full_height}){more}: edited and written at {width} x "
            f"{height} pixels, the size of this model{advice}"
        )


def edit_experiments(
    inputs: EditInputs, options: EditOptions, prior: Prior
) -> dict[tuple[int, int], Experiment]:
    """Group the edits by the size that their images have in the model.

    Args:
        inputs: images, prompts and masks.
        options: method and its settings.
        prior: the model.

    Returns:
        One experiment per (height, width).
    """
    sizes: dict[tuple[int, int], list[EditItem]] = {}
    for edit in inputs.edits():
        sizes.setdefault(fitted_size(edit.image, prior), []).append(edit)
    return {size: _experiment(edits, options) for size, edits in sizes.items()}


def check_edits(inputs: EditInputs, options: EditOptions) -> None:
    """Check that options fit each other, without the model.

    Args:
        inputs: images, prompts and masks.
        options: method and its settings.

    Raises:
        ValueError: if the experiment of the edits refuses them.
    """
    _experiment(inputs.edits(), options)


def _experiment(edits: Sequence[EditItem], options: EditOptions) -> Experiment:
    images, sources, targets, masks = zip(*edits, strict=True)
    return Experiment(
        targets,
        negative_prompt=options.negative_prompt,
        source_prompt=() if sources[0] is None else sources,
        model=options.model,
        runtime=options.runtime,
        method=options.method,
        representation=_representation(images, masks, options),
        timesteps=options.timesteps,
        weight=options.weight,
        noise=options.noise,
        grad_transform=options.grad_transform,
        optimizer=options.optimizer,
        particles=options.particles,
        steps=options.steps,
        seed=options.seed,
        precision=options.precision,
    )


def _representation(
    images: tuple[Path, ...], masks: tuple[Path | None, ...], options: EditOptions
) -> RepresentationConfig:
    """What is optimized: latents that start as the images, inside masks, or their noise."""
    given = tuple(mask for mask in masks if mask is not None)
    if options.method.optimizes == "noise":
        if given:
            raise ValueError(
                f"--mask: the method {component_name(type(options.method))} samples whole images "
                "from their noise; leave it out, or use another, such as --method flow-edit"
            )
        return NoiseMap(options.lr, images=images)
    latents = Latents(options.lr, images=images)
    return Inpainting(latents, given) if given else latents


def default_folder(inputs: EditInputs, options: EditOptions) -> Path:
    """``edits/TARGET-METHOD-FINGERPRINT``.

    The fingerprint covers the options and the contents of the image files, so that other images
    under the same names get another folder.
    """
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in (*inputs.images, *inputs.mask)))
    digest.update((fingerprint(inputs) + fingerprint(options)).encode())
    method = component_name(type(options.method))
    return Path("edits") / (f"{slug(inputs.target_prompt[0])}-{method}-{digest.hexdigest()[:8]}")


def image_config(representation: RepresentationConfig) -> RepresentationConfig:
    """The representation that holds the initial images, without its mask."""
    return representation.inner if isinstance(representation, Inpainting) else representation


def gradient_map(experiment: Experiment, prior: Prior) -> Float[Tensor, "n h w"]:
    """Norm over channels of the mean gradient, per particle.

    The mean is over the first ``GRADIENT_MAP_STEPS`` steps, which are computed again for it.
    """
    run, steps = Run(experiment, prior), min(GRADIENT_MAP_STEPS, experiment.steps)
    mean = torch.stack([run.advance().gradient for _ in range(steps)]).mean(0)
    return mean.float().flatten(1, -3).norm(dim=1).cpu()


def _save_before_images(
    images: Float[Tensor, "n 3 h w"], stems: Sequence[str], folder: Path
) -> None:
    """Write the images to edit; refuse a folder with edits of other images."""
    for stem, image in zip(stems, images, strict=True):
        path = folder / "edit" / f"{stem}-before.png"
        if path.exists():
            saved = read_image(path, tuple(image.shape[1:]))
            if not torch.equal(saved, (image * 255).round() / 255):
                raise ValueError(
                    f"{folder} holds edits of other images with the same names: choose another "
                    "folder or delete this one"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(image_grid(image[None], 1), path)


def run_edit(
    experiment: Experiment,
    prior: Prior,
    folder: Path,
    image_every: int,
    command: str,
    console: Console | None,
) -> Path:
    """Run the edits of one image size.

    Writes a run folder and, in its ``edit/``, the images ``PROMPT-PARTICLE-KIND.png`` with KIND
    before, after, difference and gradient.

    Args:
        experiment: the edits.
        prior: the model.
        folder: run folder.
        image_every: steps between recorded images; 0 for about ten.
        command: command line, for the record.
        console: for messages; stderr if None.

    Returns:
        The report.
    """
    before = image_config(experiment.representation).initial_images(prior, experiment.total)
    assert before is not None
    stems = particle_stems(experiment.total, experiment.particles)
    _save_before_images(before, stems, folder)
    if experiment.method.optimizes == "noise":
        image_every = image_every or experiment.steps  # an image takes many passes
    last_images = [folder / "edit" / f"{stem}-gradient.png" for stem in stems]
    is_left_alone = is_finished(folder, experiment) and all(map(Path.is_file, last_images))
    recording = RecordingOptions(image_every)
    record(experiment, prior, folder, recording, command, console)
    if is_left_alone:
        return folder / "report.html"
    maps = gradient_map(experiment, prior)
    if launched_index() > 0:  # process 0 writes
        return folder / "report.html"
    top = float(maps.flatten().quantile(0.99)) or 1.0
    for i, (stem, image) in enumerate(zip(stems, before, strict=True)):
        size = tuple(image.shape[1:])
        after = read_image(folder / "final" / f"{stem}.png", size)
        change = (after - image).abs().mean(0, keepdim=True)
        gradient = heat_map(maps[i : i + 1], top)
        images = {
            "after": after[None],
            "difference": heat_map(change, _DIFFERENCE_MAX),
            "gradient": torch.nn.functional.interpolate(gradient, size),
        }
        for kind, one in images.items():
            save_png(image_grid(one, 1), folder / "edit" / f"{stem}-{kind}.png")
    return pages.write_report([folder])


def edit_folders(
    folder: Path, experiments: dict[tuple[int, int], Experiment]
) -> dict[Path, Experiment]:
    """Run folder of each experiment: ``folder`` itself, or ``folder/WIDTHxHEIGHT`` if several."""
    if len(experiments) == 1:
        return dict(zip([folder], experiments.values(), strict=True))
    return {folder / f"{width}x{height}": e for (height, width), e in experiments.items()}


def edit_to_folder(
    inputs: EditInputs,
    options: EditOptions,
    prior: Prior,
    folder: Path,
    image_every: int = 0,
    command: str = "",
    console: Console | None = None,
) -> Path:
    """Edit images into a folder.

    Images of several sizes in the model become one run each, with one common report.

    Args:
        inputs: images, prompts and masks.
        options: method and its settings.
        prior: the model.
        folder: folder to write.
        image_every: steps between recorded images; 0 for about ten per run.
        command: command line, for the record.
        console: for messages; stderr if None.

    Returns:
        The report.

    Raises:
        ValueError: if images, masks or prompts cannot be used; nothing is written in this case.
    """
    inputs.check(options.method, follows_instructions(prior))
    runs = edit_folders(folder, edit_experiments(inputs, options, prior))
    refuse_folder_in_use(folder)
    for run_folder, experiment in runs.items():
        refuse_other_experiment(run_folder, experiment)
    notify_inputs(inputs, prior)
    for experiment in runs.values():
        Run(experiment, prior, pretrain=False)  # raises for any size before the first one is edited
    with folder_lock(folder) if len(runs) > 1 else nullcontext():  # a single one locks it itself
        for run_folder, experiment in runs.items():
            run_edit(experiment, prior, run_folder, image_every, command, console)
        if len(runs) > 1 and launched_index() == 0:
            pages.write_edit_report(list(runs), folder / "report.html")
    return folder / "report.html"


def rehearse_edits(
    inputs: EditInputs, options: EditOptions, prior: Prior, folder: Path
) -> dict[Path, ResourcePlan]:
    """Take three steps of the edits of each image size in memory; nothing is written.

    Args:
        inputs: images, prompts and masks.
        options: method and its settings.
        prior: the model.
        folder: folder that the edits would be written to.

    Returns:
        Time and memory by run folder.

    Raises:
        ValueError: as ``edit_to_folder``.
    """
    inputs.check(options.method, follows_instructions(prior))
    notify_inputs(inputs, prior)
    runs = edit_folders(folder, edit_experiments(inputs, options, prior))
    for run_folder, experiment in runs.items():
        refuse_other_experiment(run_folder, experiment)
    return {path: rehearse(Run(experiment, prior)) for path, experiment in runs.items()}
