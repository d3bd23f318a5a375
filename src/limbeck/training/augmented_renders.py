"""Renders as the model sees them in a step: with the augmentation of the run."""

from __future__ import annotations

from dataclasses import replace

from limbeck.config.discovery import component_name
from limbeck.distillation.own_results import check_own_tensor
from limbeck.representations.base import Render
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment


def check_augmentation(experiment: Experiment, render: Render) -> None:
    """Refuse an augmentation of images where none are rendered.

    Args:
        experiment: the options of the run.
        render: a render of its particles.

    Raises:
        ValueError: if x0 is rendered directly.
    """
    augmentation, representation = experiment.augmentation, experiment.representation
    if augmentation.changes_images and render.space != "image":
        names = [component_name(type(part)) for part in (augmentation, representation)]
        raise ValueError(
            f"augmentation {names[0]} warps rendered images, and the representation {names[1]} "
            "renders none here: use one in image space, such as strokes, paths or pixels"
        )


def augment_render(experiment: Experiment, render: Render, rng: RowRandom) -> Render:
    """Return a render of a step with its images augmented; the same one without augmentation.

    Args:
        experiment: the options of the run.
        render: the render of the rows.
        rng: random numbers of the rows.
    """
    augmentation = experiment.augmentation
    if not augmentation.changes_images:
        return render
    image = augmentation(render.image, rng.fold("augmentation"))
    shape = render.image.shape
    check_own_tensor(augmentation, "", image, shape, "images of the size of those it is given")
    return replace(render, image=image)
