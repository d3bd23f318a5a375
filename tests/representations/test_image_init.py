"""Fits to initial images: how near, deterministic, reported."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from small_2d import all_particles
from torch import Tensor

from limbeck.priors.exact import colored_shapes
from limbeck.representations.coordinate_network import Fourier, Siren
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.paths import Paths
from limbeck.representations.pixels import Pixels
from limbeck.representations.strokes import Strokes
from limbeck.system.image_files import read_image


@pytest.mark.parametrize(
    ("config", "min_psnr"),
    [
        (partial(Siren, width=48, depth=2, init_steps=300), 33),
        (partial(Fourier, width=48, depth=2, num_frequencies=48, init_steps=300, scale=3.0), 33),
        (partial(Gaussians2D, num_gaussians=150, init_steps=100), 27),
        (partial(Strokes, num_strokes=60, init_steps=100), 22),
    ],
    ids=["siren", "fourier", "gaussians-2d", "strokes"],
)
def test_particles_are_fitted_to_images_and_report_the_psnr(files, config, min_psnr):
    prior = colored_shapes(24)
    config = config(images=tuple(files[:2]))
    particles = config.build(prior, 4, 0)
    images = particles.images(prior, all_particles(4)).detach()
    target = torch.stack([read_image(files[i], (24, 24)) for i in (0, 0, 1, 1)])
    psnr = -10 * (images - target).square().mean((1, 2, 3)).log10()
    assert float(psnr.min()) > min_psnr
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert particles.init_message.startswith(f"initial PSNR {psnr[0]:.1f}, {psnr[2]:.1f} dB")
    again = config.build(prior, 4, 0).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in particles.state_dict().items())
    assert all(p.grad is None and p.is_leaf for p in particles.parameters())


IMAGES = {"images": (Path("a.png"),)}


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (Siren, {"init_steps": 5}, "init_steps 5 has no effect without images: leave it out"),
        (Fourier, {"init_steps": 5}, "init_steps 5 has no effect without images"),
        (Strokes, {"init_steps": 0}, "init_steps 0 has no effect without images"),
        (Paths, {"init_steps": 0}, "init_steps 0 has no effect without images"),
        (Gaussians2D, {"init_steps": 0}, "init_steps 0 has no effect without images"),
        (Strokes, {"init_color_std": 1.0} | IMAGES, "init_color_std 1.0 .* with images"),
        (Paths, {"init_color_std": 1.0} | IMAGES, "init_color_std 1.0 .* with images"),
        (Gaussians2D, {"init_opacity": 0.3} | IMAGES, "init_opacity 0.3 .* with images"),
        (Pixels, {"init_std": 0.1} | IMAGES, "init_std 0.1 .* with images: leave it out"),
    ],
)
def test_options_without_effect_are_refused(cls: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**options)


def test_a_network_of_latents_is_fitted_to_the_encoded_image(prior, files):
    config = Siren(
        space="latent", width=32, depth=2, init_steps=200, images=(files[0],), size=(16, 16)
    )
    network = config.build(prior, 1, 0)

    def relative_error(target: Tensor) -> float:
        render = network.render(all_particles(1)).image
        return float((render - target).square().mean() / target.var())

    with torch.no_grad():
        assert relative_error(prior.encode(read_image(files[0], (16, 16))[None])) < 0.01
