"""Initialization of 2D representations: even positions, colors of images, fits to images.

Positions are in units of the short side of the canvas, from its center, x then y.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.config.ranges import refuse_given
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import Render, RepresentationConfig
from limbeck.representations.particle_parameters import ParticleParameters
from limbeck.representations.primitives import check_render_cost
from limbeck.system.random import RowRandom


def initial_rows(config: RepresentationConfig, particles: int, seed: int) -> RowRandom:
    """Return random numbers for the initial values that are repeated or fitted.

    A particle that is fitted to an image has the numbers of the first particle of that image, which
    belong to its prompt whatever the number of particles of a prompt is.

    Args:
        config: options with the initial images.
        particles: number of particles, a multiple of that of images.
        seed: seed of the run.

    Returns:
        A row for each image of ``config``; without images, for each particle.
    """
    rows = RowRandom.initial(seed, particles)
    return rows[:: particles // len(config.images)] if config.images else rows


def check_image_options(config: RepresentationConfig, *replaced: str) -> None:
    """Refuse options of the initial values that have no effect with, or without, images.

    Args:
        config: options with ``images`` and ``init_steps``.
        replaced: options whose initial values come from the images if there are any.

    Raises:
        ValueError: names the first that has no effect.
    """
    if config.images:
        refuse_given(config, "with images: leave it out", *replaced)
    else:
        refuse_given(config, "without images: leave it out, or give images", "init_steps")


def sobol_positions(rng: RowRandom, count: int, size: tuple[int, int]) -> Float[Tensor, "n k 2"]:
    """Return positions that cover the canvas evenly, from scrambled Sobol sequences.

    Args:
        rng: random numbers of N particles, each with its own sequence.
        count: number K of positions.
        size: height and width of the canvas in pixels.
    """
    height, width = size
    unit = min(size)
    sequences = [
        torch.quasirandom.SobolEngine(2, scramble=True, seed=s % 2**31).draw(count)
        for s in rng.bits("sobol", 1)[:, 0].tolist()
    ]
    return (torch.stack(sequences) - 0.5) * torch.tensor([width / unit, height / unit])


def color_logits_at(
    images: Float[Tensor, "n 3 h w"], positions: Float[Tensor, "n k 2"]
) -> Float[Tensor, "n k 3"]:
    """Return the logits of the colors of images at positions.

    Args:
        images: images in [0, 1]; colors are clamped to [.02, .98].
        positions: positions on the canvas; outside, the color of the border.
    """
    height, width = images.shape[-2:]
    grid = positions * (2 * min(height, width) / torch.tensor([width, height]))
    colors = F.grid_sample(images, grid[:, None], align_corners=False, padding_mode="border")
    return color_logits(colors[:, :, 0].transpose(1, 2))


def color_logits(colors: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the logits of colors, which are clamped to [.02, .98]."""
    return colors.clamp(0.02, 0.98).logit()


def fit_to_images(
    representation: ParticleParameters,
    target: Float[Tensor, "m ..."] | None,
    particles: int,
    steps: int,
    lr_scale: float = 1.0,
) -> ParticleParameters:
    """Fit particles to their initial images or latents, and repeat each.

    Adam on the squared error, deterministic, with a cosine schedule to 0. The result is reported in
    ``init_message`` as a peak signal-to-noise ratio; the peak of latents is their range.

    Args:
        representation: M particles, fitted in place.
        target: what the M particles should render. None: return the representation as it is.
        particles: number of particles after repetition, a multiple of M.
        steps: optimizer steps.
        lr_scale: factor on the learning rates of the parameter groups.

    Returns:
        The representation.

    Raises:
        ValueError: if a step needs more memory than is free.
    """
    if target is None:
        return representation
    check_render_cost(representation, len(target), steps, "the fit to the initial images")
    target = target.to(next(representation.parameters()))
    request = RenderRequest(torch.arange(len(target)))
    groups = [{**group, "lr": lr_scale * group["lr"]} for group in representation.param_groups()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))

    def mse(render: Render) -> Float[Tensor, "m"]:
        return (render.image - target).square().flatten(1).mean(1)

    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        mse(representation.render(request)).sum().backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        render = representation.render(request)
        peak = 1.0 if render.space == "image" else target.max() - target.min()
        psnr = 10 * (peak**2 / mse(render).clamp_min(1e-10)).log10()
    values = ", ".join(f"{value:.1f}" for value in psnr.tolist())
    representation.init_message = f"initial PSNR {values} dB after {steps} steps of fitting"
    representation.repeat(particles // len(target))
    return representation
