"""All 2D representations: sizes, initial values, initial images, particles, resumed runs."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image
from rich.console import Console
from small_2d import ALL, WITHOUT_LATENTS, all_particles
from tiny_pipeline import max_difference, normal

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.coordinate_network import Siren
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.representations.strokes import Strokes
from limbeck.runs.recorder import record
from limbeck.runs.report.run_data import read_run_data
from limbeck.system.image_files import read_image
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run

every_config = pytest.mark.parametrize("config", ALL.values(), ids=ALL)
every_config_but_latents = pytest.mark.parametrize(
    "config", WITHOUT_LATENTS.values(), ids=WITHOUT_LATENTS
)


# Sizes and initial values


@every_config
def test_renders_have_the_requested_size(prior, config):
    for size in ((0, 0), (16, 24), (32, 16)):
        particles = replace(config, size=size).build(prior, 3, 0)
        h, w = (16, 16) if size == (0, 0) else size
        assert particles.images(prior, all_particles(3)).shape == (3, 3, h, w)
        render = particles.render(RenderRequest(torch.tensor([2, 0])))
        expected = (2, 3, h, w) if render.space == "image" else (2, 4, h // 2, w // 2)
        assert render.image.shape == expected


@every_config
def test_initial_values_depend_on_the_seed_only(prior, config):
    torch.manual_seed(1)
    a = config.build(prior, 2, 5).state_dict()
    torch.manual_seed(2)
    b, c = (config.build(prior, 2, seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)
    image = config.build(prior, 2, 5).images(prior, all_particles(2)).detach()
    assert float(image.min()) >= 0 and float(image.max()) <= 1
    assert max_difference(image[0], image[1]) > 1e-4  # particles differ


@every_config_but_latents
def test_every_pixel_and_parameter_has_a_gradient_initially(prior, config):
    particles = config.build(prior, 1, 0)
    render = particles.render(all_particles(1))
    assert float(render.image.detach().std()) < 0.35
    height, width = render.image.shape[-2:]
    for row in range(0, height, 3):
        for column in range(0, width, 3):
            particles.zero_grad()
            render.image[0, :, row, column].sum().backward(retain_graph=True)
            grads = [p.grad for p in particles.parameters() if p.grad is not None]
            assert max(float(grad.abs().max()) for grad in grads) > 1e-4
    particles.zero_grad()
    (render.image * normal(*render.image.shape, seed=3, dtype=torch.float32)).sum().backward()
    shares = {name: float((p.grad != 0).float().mean()) for name, p in particles.named_parameters()}
    without = [name for name, share in shares.items() if not share > 0.8]
    assert without in ([], ["params.rotations.0"])  # round Gaussians do not depend on it


def test_impossible_sizes_are_refused(prior):
    for config in (Gaussians2D(size=(20, 16)), Siren(size=(-16, 16))):
        with pytest.raises(ValueError, match="multiples of"):
            config.build(prior, 1, 0)
    with pytest.raises(ValueError, match="and no other"):
        Strokes(size=(16, 24)).build(colored_shapes(12), 1, 0)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (Latents, {"lr": 0.0}, "lr must be positive, not 0"),
        (Latents, {"init_std": -1.0}, "init_std must not be negative, not -1"),
        (Pixels, {"num_levels": 0}, "num_levels must be at least 1, not 0"),
    ],
)
def test_invalid_options_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


# Initial images


def test_latents_of_an_image_are_the_encoded_image(prior, files):
    config = Latents(images=(files[0],), size=(16, 16))
    with torch.no_grad():
        encoded = prior.encode(read_image(files[0], (16, 16))[None])
    latents = config.build(prior, 2, 0).render(all_particles(2)).image
    # a batch of two is rounded differently from one
    assert max_difference(latents, encoded.expand(2, -1, -1, -1)) < 1e-5
    noisy = replace(config, init_std=1.0).build(prior, 40, 0).render(all_particles(40)).image
    assert abs(float((noisy.detach() - encoded).std()) - 1) < 0.05


def test_pixels_of_an_image_render_it(prior, files):
    pixels = Pixels(images=(files[1],), size=(16, 16)).build(prior, 2, 0)
    target = read_image(files[1], (16, 16)).clamp(0.02, 0.98).expand(2, -1, -1, -1)
    assert max_difference(pixels.render(all_particles(2)).image, target) < 1e-5


@pytest.mark.parametrize(
    "order", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]], ids=["for all", "per prompt", "each"]
)
def test_images_are_assigned_to_particles(files, order):
    prior = colored_shapes(12)
    count = max(order) + 1
    config = Pixels(images=tuple(files[:count]))
    images = [read_image(path, (12, 12)) for path in files[:count]]
    initial = config.initial_images(prior, 4)
    assert torch.equal(initial, torch.stack([images[i] for i in order]))
    rendered = config.build(prior, 4, 0).images(prior, all_particles(4))
    assert max_difference(rendered, initial.clamp(0.02, 0.98)) < 1e-5
    assert torch.equal(config.distinct_initial_images(prior, 4), torch.stack(images))


def test_the_number_of_images_must_divide_that_of_particles(files):
    prior = colored_shapes(12)
    with pytest.raises(ValueError, match="3 images for 4 particles"):
        Pixels(images=tuple(files[:3])).build(prior, 4, 0)
    assert Pixels().initial_images(prior, 4) is None
    assert Pixels().distinct_initial_images(prior, 4) is None


def test_the_canvas_has_the_aspect_ratio_of_the_first_image(prior, files):
    assert Pixels(images=(files[4],)).canvas_size(prior) == (16, 32)
    assert Pixels(images=(files[0],)).canvas_size(prior) == (16, 16)
    assert Pixels(images=(files[4],), size=(24, 16)).canvas_size(prior) == (24, 16)
    assert Pixels(images=(files[4],)).canvas_size(colored_shapes(12)) == (12, 12)


# Particles and runs


@every_config_but_latents
def test_particles_are_independent(prior, config):
    particles = config.build(prior, 3, 0)
    alone = particles.render(RenderRequest(torch.tensor([1]))).image[0]
    together = particles.render(all_particles(3)).image[1]
    assert max_difference(alone, together) < 1e-5
    probe = normal(*alone.shape, dtype=torch.float32)
    own = [p for name, p in particles.named_parameters() if name.endswith(".1")]
    grads = [torch.autograd.grad((image * probe).sum(), own) for image in (alone, together)]
    for a, b in zip(*grads, strict=True):
        assert max_difference(a, b) < 1e-4 * (1 + float(a.abs().max()))


@every_config_but_latents
def test_a_resumed_run_is_bit_identical_and_only_drawn_particles_move(config):
    experiment = Experiment(
        ("red disc", "blue ring"),
        particles=2,
        batch_size=2,
        steps=6,
        method=SDS(5.0),
        representation=config,
    )
    whole, first, resumed = (Run(experiment, colored_shapes(8)) for _ in range(3))
    while whole.step < 6:
        parameters = dict(whole.representation.named_parameters())
        before = {name: p.detach().clone() for name, p in parameters.items()}
        drawn = whole.advance().inputs.particle.tolist()
        moved = {name for name, p in parameters.items() if not torch.equal(before[name], p)}
        assert moved and {int(name.rsplit(".", 1)[-1]) for name in moved} <= set(drawn)
    for _ in range(3):
        first.advance()
    resumed.load({k: v.clone() for k, v in first.tensors().items()}, 3)
    while resumed.step < 6:
        resumed.advance()
    a, b = whole.tensors(), resumed.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["siren", "fourier", "gaussians-2d", "strokes"])
def test_a_render_at_higher_resolution_shows_the_same_image(prior, name):
    particles = WITHOUT_LATENTS[name].build(prior, 2, 0)
    index = torch.arange(2)
    small, large = particles.render_at(index, 16, 16), particles.render_at(index, 64, 64)
    assert torch.equal(small, particles.render(all_particles(2)).image)
    assert large.shape == (2, 3, 64, 64)
    averaged = torch.nn.functional.avg_pool2d(large, 4)
    assert float((averaged - small).detach().abs().mean()) < 0.03


def test_a_run_of_wide_images_writes_wide_sheets(prior, tmp_path):
    e = Experiment(
        ("a red mug", "a blue chair"),
        method=SDS(5.0),
        representation=Gaussians2D(num_gaussians=20, size=(16, 32)),
        particles=2,
        steps=2,
        optimizer=SGD(),
    )
    folder = tmp_path / "run"
    record(e, prior, folder, console=Console(file=io.StringIO()))
    with Image.open(folder / "final.png") as sheet:
        assert sheet.size == (2 * 32 + 2, 2 * 16 + 2)
    with Image.open(folder / "final" / "01-01.png") as image:
        assert image.size == (32, 16)
    for name in ("progress.webp", "scores.json", "report.html"):
        assert (folder / name).exists()
    assert "SVG files" not in (folder / "report.html").read_text(encoding="utf-8")
    (_, images), _ = read_run_data(folder).finals()
    assert (images[0].width, images[0].height, images[0].pixelated) == (32, 16, True)
