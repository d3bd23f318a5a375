"""What is optimised: starts, sizes and images of all representations; rasterisers against their formulas; SVG against a browser."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_pipeline import check_gradients, normal, max_difference

from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.rendering.gaussian_compositing import MIN_ALPHA, ProjectedGaussians, composite_gsplat, composite_torch
from limbeck.graphics.rendering.tiles import AlphaComposite, TileGrid
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.image_files import read_image
from limbeck.representations.coordinate_network import Fourier, Siren, pixel_coordinates
from limbeck.representations.gaussians_2d import Gaussian2DParticles, Gaussians2D
from limbeck.representations.latents import Latents
from limbeck.representations.pixels import Pixels
from limbeck.representations.strokes import PixelStrokes, StrokeParticles, Strokes, bernstein_basis, render_strokes, strokes_to_svg
from limbeck.runs.images import save_png
from limbeck.runs.recorder import record
from limbeck.runs.report.run_data import read_run_data
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD
from limbeck.training.trainer import Run

SMALL = [
    Latents(), Pixels(num_levels=3), Siren(width=16, depth=2), Siren(space="latent", width=16, depth=2), Fourier(width=16, num_frequencies=8),
    Fourier(space="latent", width=16, num_frequencies=8), Gaussians2D(num_gaussians=40), Strokes(num_strokes=12),
]  # fmt: skip
DRAWN = [r for r in SMALL if not isinstance(r, Latents)]
NAMES = lambda r: type(r).__name__ + getattr(r, "space", "")  # noqa: E731


def everyone(count: int) -> torch.Tensor:
    return torch.arange(count)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Smooth pictures with a square in each: 24 x 24, and one that is 48 wide."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, (h, w) in enumerate([(24, 24), (24, 24), (24, 24), (24, 24), (24, 48)]):
        y, x = torch.meshgrid(torch.linspace(0, 1, h), torch.linspace(0, 1, w), indexing="ij")
        rgb = torch.stack([0.2 + 0.6 * x, 0.8 - 0.5 * y, torch.full_like(x, 0.2 * i)])
        rgb[:, h // 4 : h // 2, w // 4 : w // 2] = 0.9
        save_png(
            Image.fromarray((rgb * 255).round().byte().permute(1, 2, 0).numpy()),
            folder / f"{i}.png",
        )
    return [folder / f"{i}.png" for i in range(5)]


# Sizes and starts


@pytest.mark.parametrize("representation", SMALL, ids=NAMES)
def test_every_representation_has_the_size_asked_for_in_any_aspect_ratio(prior, representation):
    from dataclasses import replace

    for size in ((0, 0), (16, 24), (32, 16)):
        made = replace(representation, size=size).build(prior, 3, 0)
        h, w = (16, 16) if size == (0, 0) else size
        assert made.images(prior, RenderRequest(everyone(3))).shape == (3, 3, h, w)
        render = made.render(RenderRequest(torch.tensor([2, 0])))
        assert render.image.shape == (
            (2, 3, h, w) if render.space == "image" else (2, 4, h // 2, w // 2)
        )


@pytest.mark.parametrize("representation", SMALL, ids=NAMES)
def test_a_start_is_a_function_of_the_seed_and_in_range(prior, representation):
    torch.manual_seed(1)
    a = representation.build(prior, 2, 5).state_dict()
    torch.manual_seed(2)
    b, c = (
        representation.build(prior, 2, 5).state_dict(),
        representation.build(prior, 2, 6).state_dict(),
    )
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)
    image = representation.build(prior, 2, 5).images(prior, RenderRequest(everyone(2))).detach()
    assert float(image.min()) >= 0 and float(image.max()) <= 1
    assert max_difference(image[0], image[1]) > 1e-4  # particles do not begin alike


@pytest.mark.parametrize("representation", DRAWN, ids=NAMES)
def test_the_start_has_a_gradient_everywhere(prior, representation):
    """Of every pixel to some parameter, and of every parameter that a picture can depend on."""
    made = representation.build(prior, 1, 0)
    render = made.render(RenderRequest(everyone(1)))
    assert float(render.image.detach().std()) < 0.35
    for row in range(0, render.image.shape[-2], 3):
        for column in range(0, render.image.shape[-1], 3):
            made.zero_grad()
            render.image[0, :, row, column].sum().backward(retain_graph=True)
            assert (
                max(float(p.grad.abs().max()) for p in made.parameters() if p.grad is not None)
                > 1e-4
            )
    made.zero_grad()
    (render.image * normal(*render.image.shape, seed=3, dtype=torch.float32)).sum().backward()
    quiet = [n for n, p in made.named_parameters() if not float((p.grad != 0).float().mean()) > 0.8]
    assert quiet in ([], ["params.rotation.0"])  # a round Gaussian does not depend on its angle


def test_an_impossible_size_is_refused(prior):
    for representation in (Gaussians2D(size=(20, 16)), Siren(size=(-16, 16))):
        with pytest.raises(ValueError, match="multiples of"):
            representation.build(prior, 1, 0)
    with pytest.raises(ValueError, match="and no other"):
        Strokes(size=(16, 24)).build(colored_shapes(12), 1, 0)


@pytest.mark.parametrize(("make", "says"), [
    (lambda: Gaussians2D(num_gaussians=0), "count must be"), (lambda: Gaussians2D(init_opacity=1.0), "opacity must be"),
    (lambda: Gaussians2D(scales_lr=0.0), "every rate"), (lambda: Strokes(init_width=0.5), "width in"),
    (lambda: Strokes(num_segments=0), "count and pieces"),
    (lambda: Siren(omega=0.0), "omega must be positive"), (lambda: Fourier(num_frequencies=0), "features must be"),
    (lambda: Siren(depth=0), "depth must be"),
])  # fmt: skip
def test_bad_options_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


# Images to begin with


def test_a_latent_from_an_image_is_the_encoded_image(prior, files):
    made = Latents(images=(files[0],), size=(16, 16)).build(prior, 2, 0)
    with torch.no_grad():
        encoded = prior.encode(read_image(files[0], (16, 16))[None])
    shown = made.render(RenderRequest(everyone(2))).image
    assert (
        max_difference(shown, encoded.expand(2, -1, -1, -1)) < 1e-5
    )  # a batch of two rounds otherwise than one
    noisy = (
        Latents(images=(files[0],), size=(16, 16), init_std=1.0)
        .build(prior, 40, 0)
        .render(RenderRequest(everyone(40)))
        .image
    )
    assert abs(float((noisy.detach() - encoded).std()) - 1) < 0.05


def test_pixels_begun_with_an_image_render_it(prior, files):
    made = Pixels(images=(files[1],), size=(16, 16)).build(prior, 2, 0)
    goal = read_image(files[1], (16, 16)).clamp(0.02, 0.98)
    assert max_difference(made.render(RenderRequest(everyone(2))).image, goal.expand(2, -1, -1, -1)) < 1e-5


def test_one_image_for_all_one_per_prompt_or_one_per_particle(files):
    prior = colored_shapes(12)
    own = [read_image(path, (12, 12)) for path in files[:4]]
    for count, order in ((1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (4, [0, 1, 2, 3])):
        first = Pixels(images=tuple(files[:count])).initial_images(prior, 4)
        assert torch.equal(first, torch.stack([own[i] for i in order]))
        shown = (
            Pixels(images=tuple(files[:count]))
            .build(prior, 4, 0)
            .images(prior, RenderRequest(everyone(4)))
        )
        assert max_difference(shown, first.clamp(0.02, 0.98)) < 1e-5
        distinct = Pixels(images=tuple(files[:count])).distinct_initial_images(prior, 4)
        assert torch.equal(distinct, torch.stack(own[:count]))
    with pytest.raises(ValueError, match="3 images for 4 particles"):
        Pixels(images=tuple(files[:3])).build(prior, 4, 0)
    assert (
        Pixels().initial_images(prior, 4) is None
        and Pixels().distinct_initial_images(prior, 4) is None
    )


def test_the_canvas_follows_the_first_image(prior, files):
    assert Pixels(images=(files[4],)).canvas_size(prior) == (16, 32)
    assert Pixels(images=(files[0],)).canvas_size(prior) == (16, 16)
    assert Pixels(images=(files[4],), size=(24, 16)).canvas_size(prior) == (24, 16)
    assert Pixels(images=(files[4],)).canvas_size(colored_shapes(12)) == (12, 12)
    # scaled and cut, never squashed: the bright square of a wide picture keeps its shape
    read = read_image(files[4], (24, 24))
    with Image.open(files[4]) as picture:
        middle = (
            torch.tensor(list(picture.crop((12, 0, 36, 24)).getdata()))
            .reshape(24, 24, 3)
            .permute(2, 0, 1)
            / 255
        )
    assert max_difference(read, middle) < 0.01


def test_a_file_that_is_no_picture_is_refused(prior, tmp_path):
    with pytest.raises(ValueError, match="no picture"):
        Pixels(images=(tmp_path / "none.png",)).build(prior, 1, 0)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match="is not a picture that can be read"):
        Gaussians2D(images=(tmp_path / "text.png",)).build(prior, 1, 0)


@pytest.mark.parametrize(("representation", "least"), [
    (Siren(width=48, depth=2, init_steps=300), 33), (Fourier(width=48, depth=2, num_frequencies=48, init_steps=300, scale=3.0), 33),
    (Gaussians2D(num_gaussians=150, init_steps=100), 27), (Strokes(num_strokes=60, init_steps=100), 22),
], ids=["siren", "fourier", "gaussians", "strokes"])  # fmt: skip
def test_a_start_is_fitted_to_images_and_says_how_near_it_came(files, representation, least):
    from dataclasses import replace

    prior = colored_shapes(24)
    made = replace(representation, images=tuple(files[:2])).build(prior, 4, 0)
    shown = made.images(prior, RenderRequest(everyone(4))).detach()
    goal = torch.stack(
        [read_image(path, (24, 24)) for path in (files[0], files[0], files[1], files[1])]
    )
    ratios = -10 * (shown - goal).square().mean((1, 2, 3)).log10()
    assert float(ratios.min()) > least
    assert torch.equal(shown[0], shown[1]) and not torch.equal(shown[0], shown[2])
    assert made.init_message.startswith(f"begins at {ratios[0]:.1f}, {ratios[2]:.1f} dB")
    again = replace(representation, images=tuple(files[:2])).build(prior, 4, 0).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())
    assert all(p.grad is None and p.is_leaf for p in made.parameters())


def test_a_network_of_latents_is_fitted_to_the_encoded_image(prior, files):
    made = Siren(
        space="latent", width=32, depth=2, init_steps=200, images=(files[0],), size=(16, 16)
    ).build(prior, 1, 0)
    with torch.no_grad():
        goal = prior.encode(read_image(files[0], (16, 16))[None])
        assert (
            float(
                (made.render(RenderRequest(everyone(1))).image - goal).square().mean() / goal.var()
            )
            < 0.01
        )


# The loop


@pytest.mark.parametrize("representation", DRAWN, ids=NAMES)
def test_a_resumed_run_is_bit_identical_and_an_undrawn_particle_does_not_move(representation):
    def make() -> Run:
        chosen = {
            "prompts": ("red disc", "blue ring"),
            "particles": 2,
            "batch": 2,
            "steps": 6,
            "method": SDS(5.0),
        }
        return Run(Experiment(**chosen, representation=representation), colored_shapes(8))

    whole, first, rest = make(), make(), make()
    while whole.step < 6:
        before = {name: p.detach().clone() for name, p in whole.representation.named_parameters()}
        view = whole.advance().inputs.particle.tolist()
        for name, p in whole.representation.named_parameters():
            assert int(name.rsplit(".", 1)[-1]) in view or torch.equal(before[name], p)
        assert any(
            not torch.equal(before[name], p) for name, p in whole.representation.named_parameters()
        )
    for _ in range(3):
        first.advance()
    rest.load({k: v.clone() for k, v in first.tensors().items()}, 3)
    while rest.step < 6:
        rest.advance()
    a, b = whole.tensors(), rest.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("representation", DRAWN, ids=NAMES)
def test_what_a_particle_shows_and_receives_does_not_depend_on_the_others(prior, representation):
    made = representation.build(prior, 3, 0)
    alone = made.render(RenderRequest(torch.tensor([1])))
    together = made.render(RenderRequest(everyone(3)))
    assert max_difference(alone.image[0], together.image[1]) < 1e-5
    probe = normal(*alone.image.shape[1:], dtype=torch.float32)
    wanted = [p for name, p in made.named_parameters() if name.endswith(".1")]
    one = torch.autograd.grad((alone.image[0] * probe).sum(), wanted)
    three = torch.autograd.grad((together.image[1] * probe).sum(), wanted)
    for a, b in zip(one, three, strict=True):
        assert max_difference(a, b) < 1e-4 * (1 + float(a.abs().max()))


@pytest.mark.parametrize("representation", [SMALL[2], SMALL[4], *SMALL[6:]], ids=NAMES)
def test_a_picture_can_be_drawn_at_any_resolution(prior, representation):
    """Four times as large and averaged down, it is the same picture but for detail."""
    made = representation.build(prior, 2, 0)
    small, large = made.at(everyone(2), 16, 16), made.at(everyone(2), 64, 64)
    assert torch.equal(small, made.render(RenderRequest(everyone(2))).image) and large.shape == (
        2,
        3,
        64,
        64,
    )
    assert float((torch.nn.functional.avg_pool2d(large, 4) - small).detach().abs().mean()) < 0.03


# Coordinate networks


def test_places_are_pixel_centres_with_square_pixels():
    at = pixel_coordinates(4, 8)
    assert at[0].tolist() == [-1.75, -0.75] and at[-1].tolist() == [1.75, 0.75]
    assert float(at.reshape(4, 8, 2).diff(dim=1)[..., 0].std()) < 1e-6


def test_siren_is_initialised_as_the_paper_says():
    """Sine inputs of every hidden layer are about normal of deviation 1, outputs arcsine of variance 1/2 (theorem 1.8)."""
    made = Siren(width=256, depth=4, omega=30.0).build(colored_shapes(64), 1, 0)
    assert float(made.params["weight0"][0].detach().abs().max()) <= 0.5
    assert float(made.params["weight1"][0].abs().max()) <= math.sqrt(6 / 256) / 30
    assert float(made.params["weight1"][0].std()) == pytest.approx(
        math.sqrt(6 / 256) / 30 / math.sqrt(3), rel=0.02
    )
    h = pixel_coordinates(64, 64)
    with torch.no_grad():
        for layer in range(4):
            before = 30 * h @ made.params[f"weight{layer}"][0].T
            if layer:
                assert float(before.std()) == pytest.approx(1, abs=0.1)
            h = (before + 30 * made.params[f"bias{layer}"][0]).sin()
            assert float(h.var()) == pytest.approx(0.5, abs=0.05)


def test_networks_of_several_particles_are_each_evaluated_alone():
    made = Siren(width=8, depth=2).build(colored_shapes(12), 3, 0)
    h = pixel_coordinates(12, 12)
    for layer in range(2):
        h = (10 * (h @ made.params[f"weight{layer}"][2].T + made.params[f"bias{layer}"][2])).sin()
    out = (h @ made.params["weight2"][2].T + made.params["bias2"][2]).sigmoid().T.reshape(3, 12, 12)
    assert max_difference(made.render(RenderRequest(torch.tensor([2, 0]))).image[0], out) < 1e-6


def test_fourier_features_are_the_cosines_and_sines_of_the_paper():
    made = Fourier(width=8, num_frequencies=5, scale=2.0).build(colored_shapes(12), 1, 0)
    turns = 2 * math.pi * (pixel_coordinates(12, 12) / 2) @ made.features.T
    assert max_difference(made.seen, torch.cat([turns.cos(), turns.sin()], -1)) < 1e-6
    assert float(Fourier(num_frequencies=4000, scale=2.0)._inputs(0).std()) == pytest.approx(2, rel=0.03)
    assert not [name for name in made.state_dict() if "seen" in name]


# Layers in tiles


def test_layers_front_to_back_and_their_gradient():
    a, c = normal(3, 5, 4).sigmoid().requires_grad_(), normal(3, 5, 2, seed=1).requires_grad_()
    colour, left = AlphaComposite.apply(a, c)
    expected, through = (
        torch.zeros(3, 4, 2, dtype=torch.float64),
        torch.ones(3, 4, dtype=torch.float64),
    )
    for k in range(5):
        expected = expected + (a[:, k] * through)[..., None] * c[:, k, None]
        through = through * (1 - a[:, k])
    assert max_difference(colour, expected) < 1e-12 and max_difference(left, through) < 1e-12
    assert torch.autograd.gradcheck(AlphaComposite.apply, (a, c))


def test_groups_list_every_shape_over_every_tile_once_in_order():
    rng = torch.Generator().manual_seed(0)
    canvas = TileGrid(2, 30, 45)
    middle = torch.rand(200, 2, generator=rng) * 70 - 10
    reach = 12 * torch.rand(200, 2, generator=rng)
    image = torch.arange(2).repeat_interleave(100)
    groups = canvas.make_batches(image, middle - reach, middle + reach, max_elements=1 << 14)
    assert len(groups) > 2
    assert sorted(torch.cat([g.tile for g in groups]).tolist()) == list(range(2 * 4 * 6))
    for group in groups:
        for tile, shapes, real in zip(group.tile.tolist(), group.primitive, group.valid, strict=True):
            centre = canvas.tile_centers(torch.tensor(tile), middle)
            over = ((middle - centre).abs() <= reach + 4).all(1) & (image == tile // 24)
            assert shapes[real].tolist() == over.nonzero()[:, 0].tolist()


# Gaussians


def cloud_of(
    count: int, height: int, width: int, images: int = 1, dtype=torch.float64
) -> ProjectedGaussians:
    spec = Gaussians2D(num_gaussians=count, init_color_std=1.0)
    made = Gaussian2DParticles(
        spec._initial_params(images, (height, width), 3), spec._lrs(), (height, width), 0.25
    ).to(dtype)
    for i, p in enumerate(made.parameters()):  # turned, long and short, some faint
        p.data += (
            0.7
            * normal(*p.shape, seed=i, dtype=dtype)
            * (0.1 if p.shape[-1:] == (2,) and i < images else 1)
        )
    return made.projected_gaussians(everyone(images), height, width)


def dense(cloud: ProjectedGaussians, height: int, width: int) -> torch.Tensor:
    """The formula as it is written, Gaussian after Gaussian over all pixels; behind the colours, what is left of the light."""
    out = []
    y, x = torch.meshgrid(
        *(torch.arange(side, dtype=cloud.means.dtype) + 0.5 for side in (height, width)),
        indexing="ij",
    )
    for b in range(len(cloud.means)):
        image, through = torch.zeros(3, height, width, dtype=x.dtype), torch.ones_like(x)
        for i in range(cloud.means.shape[1]):
            dx, dy = x - cloud.means[b, i, 0], y - cloud.means[b, i, 1]
            xx, xy, yy = cloud.conics[b, i]
            alpha = cloud.opacities[b, i] * torch.exp(
                -(xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy) / 2
            )
            alpha = torch.where(alpha > MIN_ALPHA, alpha, 0)
            image = image + through * alpha * cloud.colors[b, i, :, None, None]
            through = through * (1 - alpha)
        out.append(torch.cat([image, through[None]]))
    return torch.stack(out)


def test_gaussians_in_tiles_are_the_formula():
    cloud = cloud_of(60, 21, 34, images=2)
    assert max_difference(torch.cat(composite_torch(cloud, 21, 34), 1), dense(cloud, 21, 34)) < 1e-12
    single = cloud_of(60, 21, 34, images=2, dtype=torch.float32)
    assert (
        max_difference(torch.cat(composite_torch(single, 21, 34), 1), dense(cloud, 21, 34)) < 1e-3
    )  # an alpha may fall to either side of 1/255


def test_the_background_shines_through_what_is_left():
    spec = Gaussians2D(num_gaussians=20, init_color_std=1.0)
    made = Gaussian2DParticles(spec._initial_params(1, (9, 12), 0), spec._lrs(), (9, 12), 0.25).double()
    made.params["background"][0].data.copy_(normal(3, seed=1))
    seen = dense(made.projected_gaussians(everyone(1), 9, 12), 9, 12)
    expected = seen[:, :3] + seen[:, 3:] * made.params["background"][0].sigmoid()[:, None, None]
    assert max_difference(made.render(RenderRequest(everyone(1))).image, expected) < 1e-12


def test_the_covariance_is_that_of_scale_and_rotation():
    spec = Gaussians2D(num_gaussians=4)
    made = Gaussian2DParticles(spec._initial_params(1, (16, 24), 0), spec._lrs(), (16, 24), 0.25).double()
    for i, p in enumerate(made.parameters()):
        p.data += normal(*p.shape, seed=i)
    cloud = made.projected_gaussians(everyone(1), 16, 24)
    scale, angle = 0.25 * 16 * made.params["scale"][0].sigmoid(), made.params["rotation"][0]
    for i in range(4):
        turn = torch.stack(
            [
                torch.stack([angle[i].cos(), -angle[i].sin()]),
                torch.stack([angle[i].sin(), angle[i].cos()]),
            ]
        )
        covariance = turn @ scale[i].square().diag() @ turn.T + 0.3 * torch.eye(
            2, dtype=torch.float64
        )
        xx, xy, yy = cloud.conics[0, i]
        assert max_difference(torch.stack([xx, xy, xy, yy]).reshape(2, 2), covariance.inverse()) < 1e-10
        assert max_difference(cloud.stds[0, i], covariance.diagonal().sqrt()) < 1e-10


def test_gradients_of_gaussians_are_finite_differences():
    spec = Gaussians2D(num_gaussians=6, init_color_std=1.0)
    made = Gaussian2DParticles(spec._initial_params(1, (9, 12), 0), spec._lrs(), (9, 12), 0.25).double()
    for i, p in enumerate(made.parameters()):
        p.data += 0.3 * normal(*p.shape, seed=i)
    probe = normal(1, 3, 9, 12, seed=9)
    check_gradients(made, lambda: (made.render_at(everyone(1), 9, 12) * probe).sum(), 1e-6)


def test_nothing_on_the_canvas_leaves_all_light():
    cloud = cloud_of(3, 16, 16)
    for away in (replace(cloud, mean=cloud.means + 1000), replace(cloud, opacity=cloud.opacities * 0)):
        colour, left = composite_torch(away, 16, 16)
        assert (
            bool((colour == 0).all()) and bool((left == 1).all()) and colour.shape == (1, 3, 16, 16)
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gsplat_agrees_with_plain_torch():
    pytest.importorskip("gsplat")
    made = Gaussians2D(num_gaussians=500, init_color_std=1.0)
    start = Gaussian2DParticles(made._initial_params(2, (48, 80), 0), made._lrs(), (48, 80), 0.25).cuda()
    both, probe = [], normal(2, 4, 48, 80, dtype=torch.float32).cuda()
    for draw in (composite_torch, composite_gsplat):
        image = torch.cat(draw(start.projected_gaussians(everyone(2), 48, 80), 48, 80), 1)
        both.append(
            (
                image,
                torch.autograd.grad(
                    (image * probe).sum(), [p for p in start.parameters() if p.dim() == 2]
                ),
            )
        )
    assert max_difference(both[0][0].cpu(), both[1][0].cpu()) < 2e-3
    for a, b in zip(both[0][1], both[1][1], strict=True):
        assert float((a - b).norm() / a.norm()) < 0.02


# Strokes


def strokes_of(
    count: int, height: int, width: int, images: int = 1, pieces: int = 12
) -> StrokeParticles:
    spec = Strokes(num_strokes=count, init_color_std=1.0, num_segments=pieces)
    made = StrokeParticles(
        spec._initial_params(images, (height, width), 1), spec._lrs(), (height, width), pieces, spec.max_width
    ).double()
    for i, p in enumerate(made.parameters()):
        p.data += (0.05 if p.shape[-1] == 2 else 0.8) * normal(*p.shape, seed=i)
    return made


def dense_strokes(painting: PixelStrokes, height: int, width: int, pieces: int) -> torch.Tensor:
    y, x = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float64) + 0.5 for side in (height, width)), indexing="ij"
    )
    pixel, out = torch.stack([x, y], -1), []
    for b in range(len(painting.widths)):
        image, through = torch.zeros(3, height, width, dtype=x.dtype), torch.ones_like(x)
        for i in range(painting.widths.shape[1]):
            line = bernstein_basis(pieces) @ painting.points[b, i]
            least = torch.full_like(x, math.inf)
            for start, end in pairwise(line):
                share = ((pixel - start) @ (end - start) / (end - start).square().sum()).clamp(0, 1)
                least = torch.minimum(
                    least, (pixel - start - share[..., None] * (end - start)).norm(dim=-1)
                )
            half = painting.widths[b, i] / 2
            share = (
                torch.minimum(least + 0.5, half) - torch.maximum(least - 0.5, -half)
            ).clamp_min(0)
            alpha = painting.opacities[b, i] * share
            image = image + through * alpha * painting.colors[b, i, :, None, None]
            through = through * (1 - alpha)
        out.append(image + through * painting.background[b, :, None, None])
    return torch.stack(out)


def test_strokes_in_tiles_are_the_formula():
    painting = strokes_of(30, 21, 34, images=2).pixel_strokes(everyone(2), 21, 34)
    assert max_difference(render_strokes(painting, 21, 34, 12), dense_strokes(painting, 21, 34, 12)) < 1e-6


def test_gradients_of_strokes_are_finite_differences():
    made = strokes_of(4, 12, 16, pieces=5)
    probe = normal(1, 3, 12, 16, seed=9)
    check_gradients(made, lambda: (made.render_at(everyone(1), 12, 16) * probe).sum(), 1e-4)


def test_an_svg_says_the_painting_from_the_back():
    painting = strokes_of(3, 16, 24).pixel_strokes(everyone(1), 16, 24)
    text = strokes_to_svg(painting, 0, 16, 24)
    assert (
        text.startswith('<svg xmlns="http://www.w3.org/2000/svg" width="24" height="16"')
        and text.count("<path") == 3
    )
    last = text[text.rindex("<path") :]
    x, y = painting.points[0, 0, 0].tolist()
    assert (
        f'd="M{x:.3f} {y:.3f} C' in last
        and f'stroke-width="{painting.widths[0, 0].item():.3f}"' in last
    )


def test_a_run_of_strokes_leaves_svg_files_and_shows_them(tmp_path):
    e = Experiment(
        ("red disc", "blue ring"),
        model="gaussians",
        method=SDS(5.0),
        representation=Strokes(num_strokes=6),
        particles=2,
        steps=2,
    )
    record(e, colored_shapes(12), tmp_path / "run", console=Console(file=io.StringIO()))
    names = ["00-00", "00-01", "01-00", "01-01"]
    assert sorted(path.stem for path in (tmp_path / "run" / "final").glob("*.svg")) == names
    rows = read_run_data(tmp_path / "run").finals()
    head = "data:image/svg+xml;base64,"
    for (_, pictures), stems in zip(rows, (names[:2], names[2:]), strict=True):
        for picture, stem in zip(pictures, stems, strict=True):
            assert picture.source.startswith(head) and not picture.hard and picture.width == 12
            inside = base64.b64decode(picture.source.removeprefix(head)).decode()
            assert inside == (tmp_path / "run" / "final" / f"{stem}.svg").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count(head) == 4 and "Drawn here from the SVG files" in page


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_draws_the_svg_as_we_do(tmp_path):
    side = 256
    made = strokes_of(60, side, side, pieces=24)
    (tmp_path / "a.svg").write_text(strokes_to_svg(made.pixel_strokes(everyone(1), side, side), 0, side, side))
    shot = tmp_path / "a.png"
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1",
         f"--window-size={side},{side}", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
         str(tmp_path / "a.svg")],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(shot) as picture:
        assert picture.size == (side, side)
        theirs = (
            torch.tensor(list(picture.convert("RGB").getdata()))
            .reshape(side, side, 3)
            .permute(2, 0, 1)
            / 255
        )
    ours = made.render_at(everyone(1), side, side)[0].detach().float()
    gap = (theirs - ours).abs()
    print(
        json.dumps(
            {"mean": float(gap.mean()), "share above 0.1": float((gap > 0.1).float().mean())}
        )
    )
    assert float(gap.mean()) < 0.004 and float((gap > 0.1).float().mean()) < 0.005


# Pictures of other shapes, in the record and in the report


def test_a_run_of_wide_pictures_leaves_wide_sheets(prior, tmp_path):
    e = Experiment(("a red mug", "a blue chair"), method=SDS(5.0), representation=Gaussians2D(num_gaussians=20, size=(16, 32)), particles=2,
                   steps=2, optimizer=SGD())  # fmt: skip
    record(e, prior, tmp_path / "run", console=Console(file=io.StringIO()))
    with Image.open(tmp_path / "run" / "final.png") as sheet:
        assert sheet.size == (2 * 32 + 2, 2 * 16 + 2)
    with Image.open(tmp_path / "run" / "final" / "01-01.png") as one:
        assert one.size == (32, 16)
    for name in ("progress.webp", "scores.json", "report.html"):
        assert (tmp_path / "run" / name).exists()
    assert "Drawn here from the SVG files" not in (tmp_path / "run" / "report.html").read_text()
    (_, pictures), _ = read_run_data(tmp_path / "run").finals()
    assert (pictures[0].width, pictures[0].height, pictures[0].hard) == (32, 16, True)
