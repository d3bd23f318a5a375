"""Samples of the one-step generator of a run, and its export as a pipeline of diffusers."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import Sampling
from limbeck.graphics.export.png import check_image_values
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.generator import Generator, OneStepGenerator
from limbeck.runs.reopen import read_experiment
from limbeck.runs.view_samples import condition_rows
from limbeck.system.finite import NonFiniteError
from limbeck.training.warm_start import load_representation

_BATCH = 32  #: images decoded at a time


def check_generator(folder: Path) -> None:
    """Check that a folder is the run of a generator, before the model is loaded.

    Args:
        folder: run folder, finished or not.

    Raises:
        ValueError: if it is no run folder, or its representation is another one.
    """
    representation = read_experiment(folder).representation
    if not isinstance(representation, Generator):
        name = component_name(type(representation))
        raise ValueError(
            f"{folder} has no generator, its representation is {name}: give a run of "
            "--representation generator, such as one of --preset one-step"
        )


def load_generator(folder: Path, prior: Prior) -> OneStepGenerator:
    """Load the generator of a run from its last checkpoint.

    Args:
        folder: run folder, finished or not.
        prior: the model of the run.

    Raises:
        ValueError: as of ``check_generator``, or if there is no checkpoint.
    """
    check_generator(folder)
    representation, _ = load_representation(folder, prior)
    assert isinstance(representation, OneStepGenerator)
    return representation


@torch.no_grad()
def draw_from_generator(
    sampling: Sampling, generator: OneStepGenerator, prior: Prior, condition: Condition
) -> Float[Tensor, "n 3 h w"]:
    """Sample images in one pass each.

    Noise is that of ``limbeck sample`` without a generator at the same seed.

    Args:
        sampling: number of images and seed.
        generator: the generator.
        prior: the model of its run, which decodes.
        condition: the condition of each prompt.

    Raises:
        NonFiniteError: if a sample is not finite.
    """
    rows = condition_rows(sampling).to(prior.device)
    rng = torch.Generator().manual_seed(sampling.seed)
    noise = torch.randn(len(rows), *generator.shape, generator=rng).to(prior.device)
    images = []
    for row, z in zip(rows.split(_BATCH), noise.split(_BATCH), strict=True):
        x0 = generator.sample(z, condition[row])
        if not bool(x0.isfinite().all()):
            raise NonFiniteError(None, "a sampled x0", {"x0": x0})
        images.append(prior.decode(x0))
        check_image_values(images[-1])
    return torch.cat(images).cpu()


def require_pipeline(prior: Prior) -> StableDiffusion:
    """Return a model whose generators can be exported.

    Args:
        prior: the model.

    Raises:
        ValueError: if it is of another family.
    """
    if not isinstance(prior, StableDiffusion):
        raise ValueError(
            "--export writes a StableDiffusionPipeline, and this model is of another family: "
            "leave it out"
        )
    return prior


def check_exportable(folder: Path) -> None:
    """Check that a pipeline can hold the generator of a run, before the model is loaded.

    Args:
        folder: run folder of a generator.

    Raises:
        ValueError: if the generator is no network of the model.
    """
    representation = read_experiment(folder).representation
    if isinstance(representation, Generator) and representation.network != "own":
        raise ValueError(
            f"--export writes the model's own network as a pipeline, and the generator of {folder} "
            f"is a {representation.network}: leave it out"
        )


def export_generator(folder: Path, prior: Prior, target: Path) -> None:
    """Write the generator of a run as a pipeline that diffusers loads and draws from in one step.

    Args:
        folder: run folder, finished or not.
        prior: the model of the run.
        target: folder to create.

    Raises:
        ValueError: if the model has no such pipeline, or the generator is no network of the model.
    """
    check_exportable(folder)
    pipeline = require_pipeline(prior)
    network = load_generator(folder, prior).average_network
    pipeline.save_one_step_pipeline(network.merged_module(), target)
