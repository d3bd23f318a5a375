"""Gradients of rendered images on their way from the encoder back to the particles."""

from __future__ import annotations

from limbeck.config.discovery import component_name
from limbeck.representations.base import Render
from limbeck.training.experiment import Experiment


def check_image_transform(experiment: Experiment, render: Render) -> None:
    """Refuse a transform of the gradients of images where none are rendered.

    Args:
        experiment: the options of the run.
        render: a render of its particles.

    Raises:
        ValueError: if the transform changes gradients of images and x0 is rendered directly.
    """
    transform, representation = experiment.grad_transform, experiment.representation
    if transform.changes_images and render.space != "image":
        names = [component_name(type(part)) for part in (transform, representation)]
        raise ValueError(
            f"grad_transform {names[0]} changes the gradients of rendered images, and the "
            f"representation {names[1]} renders none: use another, such as pixels or nerf"
        )


def transform_image_gradients(experiment: Experiment, render: Render) -> None:
    """Let the gradients of rendered images pass through the gradient transform.

    Args:
        experiment: the options of the run.
        render: the render of a step, before its backward pass.
    """
    transform = experiment.grad_transform
    if not transform.changes_images:
        return
    # the surrogate averages over the views of a particle: the transform sees that of one view
    views = experiment.camera_sampler.per_particle
    render.image.register_hook(lambda gradient: transform.of_image(gradient * views) / views)
