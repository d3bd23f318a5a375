"""Gaussian splats: gradients, relocation, resumed runs, initialization from other runs, files."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gaussians import cameras_around, float_camera, front_camera, perturb, splat_particles
from own_meshes import write_own_meshes
from tiny_pipeline import check_gradients, max_difference, normal, rng
from torch.nn import functional as F

from limbeck.config.yaml import to_yaml
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.export.mapped_mesh import world_snapshot
from limbeck.graphics.fields.density_init import Magic3DDensityInit
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.geometry.gaussian_ply import read_gaussian_ply
from limbeck.graphics.rendering.gaussian_projection import quats_to_rotations
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations import splat_init
from limbeck.representations.base import Representation
from limbeck.representations.dmtet import DMTet
from limbeck.representations.gaussian_splats import GaussianSplatParticles, GaussianSplats
from limbeck.representations.mesh import Mesh
from limbeck.representations.nerf import NeRF
from limbeck.representations.pixels import Pixels
from limbeck.representations.splat_init import field_surface
from limbeck.system.checkpoint import write_checkpoint
from limbeck.system.notices import collect_notices, display_notices
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import SGD, Adam
from limbeck.training.trainer import Run
from limbeck.training.warm_start import build_representation


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_are_finite_differences(antialiased):
    config = GaussianSplats(
        num_gaussians=6, init_color_std=1.0, init_opacity=0.5, antialiased=antialiased
    )
    particles = perturb(splat_particles(config).double(), seed=50)  # no alpha near 1/255
    probe = normal(2, 5, 12, 12, seed=9)
    request = RenderRequest(torch.tensor([0, 0]), cameras_around(2))

    def loss():
        out = particles.render(request)
        return (torch.cat([out.image, out.alpha, out.depth * out.alpha], 1) * probe).sum()

    check_gradients(particles, loss, 2e-6)


def test_initially_round_gray_gaussians_fill_a_ball():
    config = GaussianSplats(num_gaussians=4000, init_radius=0.5, init_scale=0.6)
    one, two = (splat_particles(config, 2).gaussians(torch.tensor([i])) for i in (0, 1))
    assert not torch.equal(one.means, two.means) and not torch.equal(one.colors, two.colors)
    distances = one.means[0].norm(dim=1) / 0.5
    # the share of the volume within the distance of each of n is uniform in a filled ball:
    # Kolmogorov's bound at a probability of error of 1e-3
    steps = (torch.arange(4000) + 0.5) / 4000
    assert max_difference(distances.sort().values ** 3, steps) < 1.95 / 4000**0.5
    directions = F.normalize(one.means[0].detach(), dim=1)
    assert max_difference(directions.mT @ directions / 4000, torch.eye(3) / 3) < 0.03
    assert float(directions.mean(0).norm()) < 0.05
    # the standard deviation is a multiple of the side of the cube that each has for itself
    side = (4 / 3 * torch.pi * 0.5**3 / 4000) ** (1 / 3)
    assert max_difference(one.scales, torch.full((1, 4000, 3), 0.6 * side)) < 1e-6
    assert max_difference(one.opacities, torch.full((1, 4000), config.init_opacity)) < 1e-6
    assert max_difference(one.colors.mean((0, 1)), torch.full((3,), 0.5)) < 0.005
    assert one.colors.std().item() == pytest.approx(0.25 * config.init_color_std, rel=0.05)


def test_round_gaussians_are_not_rotated_by_rounding_noise():
    """Adam would make full steps of it, and a particle would depend on the number of others."""
    particles = splat_particles(GaussianSplats(num_gaussians=100, init_color_std=1.0))
    request = RenderRequest(torch.tensor([0]), float_camera(front_camera()))
    for stretch, is_zero in ((0.0, True), (0.1, False)):
        particles.params["scales"][0].data[:, 0] += stretch
        particles.zero_grad()
        particles.render(request).image.square().sum().backward()
        grad = particles.params["quats"][0].grad
        assert bool((grad == 0).all()) == is_zero


def test_an_optimizer_without_moments_steps_and_relocates():
    """Nothing of its state is to be reset."""
    config = replace(SMALL, refine_every=1, init_opacity=0.051, min_opacity=0.0511)
    run = Run(experiment(optimizer=SGD(), representation=config), colored_shapes(12))
    before = [means.detach().clone() for means in run.representation.params["means"]]
    run.advance()
    for old, new in zip(before, run.representation.params["means"], strict=True):
        assert not torch.equal(old, new)
    assert int(run.representation.num_relocated.min()) > 0


# Relocation


def after_one_step(
    config: GaussianSplats, opacities: list[float]
) -> tuple[GaussianSplatParticles, torch.optim.Optimizer]:
    """A particle of these opacities, with an optimizer that has done a step."""
    particles = perturb(splat_particles(config, size=(48, 48)))
    logits = (torch.tensor(opacities) / 0.99).logit()
    particles.params["opacities"][0].data.copy_(logits)
    optimizer = torch.optim.Adam(particles.param_groups())
    render = particles.render(RenderRequest(torch.tensor([0]), front_camera()))
    render.image.square().sum().backward()
    optimizer.step()
    particles.params["opacities"][0].data.copy_(logits)
    return particles, optimizer


def values_of(particles: GaussianSplatParticles) -> dict[str, torch.Tensor]:
    return {name: tensors[0].detach().clone() for name, tensors in particles.params.items()}


def test_relocation_keeps_the_image_and_resets_the_moments():
    config = GaussianSplats(
        num_gaussians=30,
        init_color_std=1.0,
        relocation_noise=0.0,
        refine_every=1,
        init_radius=0.6,
        max_scale=5.0,
        bound=9.0,
    )
    particles, optimizer = after_one_step(config, [0.003] * 10 + [0.5] * 20)
    request = RenderRequest(torch.tensor([0, 0]), cameras_around(2))
    image, old = particles.render(request).image.detach(), values_of(particles)
    particles.after_step(0, 10, optimizer)
    new_image, new = particles.render(request).image.detach(), values_of(particles)
    assert int(particles.num_relocated[0]) == 10
    changed = (old["opacities"] != new["opacities"]).nonzero().squeeze(1)
    assert set(range(10)) < set(changed.tolist()) and len(changed) < 30
    for mean in new["means"][:10]:  # each is at the mean of a live one
        assert float((mean - old["means"][10:]).norm(dim=1).min()) == 0
    assert max_difference(image, new_image) < 0.03
    assert float((image - new_image).abs().mean()) < 0.002
    unchanged = [i for i in range(30) if i not in changed.tolist()]
    for tensors in particles.params.values():
        moments = optimizer.state[tensors[0]]["exp_avg_sq"]
        assert bool((moments[changed] == 0).all()) and bool((moments[unchanged] != 0).any())


def test_relocation_noise_has_the_covariance_of_the_target():
    config = GaussianSplats(num_gaussians=3000, relocation_noise=1.0, refine_every=1)
    particles, optimizer = after_one_step(config, [0.003] * 2999 + [0.5])
    target = particles.params["means"][0][2999].detach().clone()
    particles.after_step(0, 10, optimizer)
    new = values_of(particles)
    rotation = quats_to_rotations(F.normalize(new["quats"][2999], dim=0))
    offset = (new["means"][:2999] - target) @ rotation / new["scales"][2999].exp()
    assert max_difference(offset.std(0), torch.ones(3)) < 0.06
    assert float(offset.mean(0).abs().max()) < 0.06


def test_accumulated_screen_gradients_choose_the_target():
    config = GaussianSplats(num_gaussians=4, refine_every=2, relocation_weight="gradient")
    particles, optimizer = after_one_step(config, [0.003, 0.5, 0.5, 0.5])
    render = particles.render(
        RenderRequest(
            torch.tensor([0, 0]), cameras_around(2), RowRandom.of_step(0, 0, torch.tensor([0, 0]))
        )
    )
    render.image.square().sum().backward()
    offset, _ = particles._screen_offset
    grad = offset.grad.norm(dim=-1).sum(0)
    particles.after_step(0, 10, optimizer)
    assert max_difference(particles.screen_grad[0], grad) < 1e-9 and float(grad.max()) > 0
    assert particles._screen_offset is None
    particles.screen_grad[0].copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    particles.after_step(1, 10, optimizer)
    assert int(particles.num_relocated[0]) == 1 and float(particles.screen_grad.abs().max()) == 0
    opacities = particles.params["opacities"][0].tolist()
    assert opacities[0] == opacities[3]


def test_means_and_scales_stay_within_bounds():
    config = GaussianSplats(num_gaussians=20, refine_every=0, bound=0.3, max_scale=0.05)
    particles, optimizer = after_one_step(config, [0.5] * 20)
    particles.after_step(0, 10, optimizer)
    assert particles.params["means"][0].norm(dim=1).max().item() <= 0.3 + 1e-6
    assert particles.params["scales"][0].exp().max().item() <= 0.05 + 1e-6


# Runs


SMALL = GaussianSplats(
    num_gaussians=25,
    refine_every=2,
    min_opacity=0.15,
    init_opacity=0.2,
    opacities_lr=0.3,
    init_color_std=1.0,
    refine_stop=1.0,
)
NEAR = Orbit(per_particle=2, elevation_range=(-10.0, 60.0), view_prompts=("", "", "", ""))


def experiment(**options) -> Experiment:
    defaults = {
        "prompts": ("red disc",),
        "model": "gaussians",
        "method": SDS(5.0),
        "representation": SMALL,
        "cameras": NEAR,
        "particles": 2,
        "steps": 8,
        "optimizer": Adam(),
    }
    return Experiment(**(defaults | options))


@pytest.mark.parametrize("relocation_weight", ["opacity", "gradient"])
def test_a_resumed_run_is_bit_identical(relocation_weight):
    config = replace(SMALL, relocation_weight=relocation_weight)
    e, prior = experiment(representation=config), colored_shapes(12)
    whole = Run(e, prior)
    for _ in range(5):
        whole.advance()
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    for _ in range(3):
        whole.advance()
    resumed = Run(e, prior)
    resumed.load(saved, 5)
    for _ in range(3):
        resumed.advance()
    a, b = whole.tensors(), resumed.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert int(whole.representation.num_relocated.min()) > 0, "relocation was not tested"


def test_a_particle_that_is_not_drawn_does_not_move():
    run = Run(experiment(batch_size=1, steps=12), colored_shapes(12))
    params = run.representation.params
    num_unmoved = 0
    for _ in range(12):
        before = [[tensors[i].clone() for tensors in params.values()] for i in range(2)]
        drawn = set(run.advance().inputs.particle.tolist())
        assert len(drawn) == 1
        for i in range(2):
            pairs = zip(before[i], (tensors[i] for tensors in params.values()), strict=True)
            equal = [torch.equal(a, b) for a, b in pairs]
            assert not all(equal) if i in drawn else all(equal)
            num_unmoved += all(equal)
    assert num_unmoved == 12


def test_rows_of_a_render_are_independent():
    config = GaussianSplats(num_gaussians=30, init_color_std=1.0)
    particles = perturb(splat_particles(config, 3)).double()
    index, camera = torch.tensor([2, 0, 2, 1]), cameras_around(4)
    together = particles.render(RenderRequest(index, camera))
    for i in range(4):
        alone = particles.render(RenderRequest(index[i : i + 1], camera[i : i + 1]))
        for name in ("image", "alpha", "depth", "normal"):
            row = getattr(together, name)[i : i + 1]
            assert max_difference(row, getattr(alone, name)) < 1e-12


def test_regularization_is_a_weighted_sum_over_the_rendered_particles():
    config = GaussianSplats(num_gaussians=30, opacity_reg=2.0, scale_reg=3.0)
    particles = perturb(splat_particles(config, 3))
    render = particles.render(RenderRequest(torch.tensor([0, 2, 2]), cameras_around(3)))
    terms = particles.regularize(render, 0.5)
    assets = [particles.asset(i) for i in (0, 2)]
    opacity = 2 * sum(asset.opacities.mean().item() for asset in assets)
    scale = 3 * sum(asset.scales.mean().item() for asset in assets)
    assert terms["opacity"].item() == pytest.approx(opacity, rel=1e-5)
    assert terms["scale"].item() == pytest.approx(scale, rel=1e-5)
    assert not splat_particles(GaussianSplats(num_gaussians=5)).regularize(render, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gaussians": 0}, "num_gaussians must be at least 1, not 0"),
        ({"init_radius": 0.0}, "init_radius must be positive, not 0"),
        ({"init_opacity": 1.0}, "init_opacity must be in"),
        ({"min_opacity": 0.0}, "min_opacity must be in"),
        (
            {"refine_every": 0, "relocation_noise": 1.0},
            "relocation_noise 1.0 has no effect with refine_every 0",
        ),
        (
            {"init_from": Path("run"), "init_color_std": 1.0},
            "init_color_std 1.0 has no effect with init_from: leave it out",
        ),
        ({"refine_every": -1}, "refine_every must not be negative, not -1"),
        ({"refine_stop": 1.5}, r"refine_stop must be in \[0, 1\], not 1.5"),
        ({"means_lr": 0.0}, "means_lr must be positive, not 0"),
        ({"images": ("a.png",)}, "cannot start from images"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianSplats(**options)


def test_cameras_are_required():
    with pytest.raises(ValueError, match="--cameras orbit"):
        splat_particles(SMALL).render(RenderRequest(torch.tensor([0])))


# Initialization from other runs


def write_run(folder, e: Experiment, prior) -> Run:
    """Do one step of a run, and write its folder."""
    run = Run(e, prior)
    run.advance()
    (folder / "run.yaml").write_text(to_yaml(e))
    write_checkpoint(folder / "checkpoint.safetensors", run.tensors(), {"step": 1})
    return run


def test_gaussian_splats_are_copied(tmp_path):
    prior = colored_shapes(12)
    first = write_run(tmp_path, experiment(particles=1), prior).representation
    config = replace(SMALL, init_from=tmp_path, init_color_std=0.1)
    second = Run(experiment(representation=config), prior).representation
    for name, tensors in second.params.items():
        assert all(torch.equal(tensor, first.params[name][0]) for tensor in tensors)
    with pytest.raises(ValueError, match="has 25 Gaussians, not 26"):
        build_representation(replace(config, num_gaussians=26), prior, 1, 0)


def test_a_resumed_run_does_without_the_run_that_it_started_from(tmp_path):
    prior, source = colored_shapes(12), tmp_path / "source"
    source.mkdir()
    write_run(source, experiment(particles=1), prior)
    e = experiment(representation=replace(SMALL, init_from=source, init_color_std=0.1))
    whole = Run(e, prior)
    whole.advance()
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    shutil.rmtree(source)
    resumed = Run(e, prior, pretrain=False)
    resumed.load(saved, 1)
    assert torch.equal(whole.advance().gradient, resumed.advance().gradient)
    a, b = whole.tensors(), resumed.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match="holds no run to start from"):
        Run(e, prior)


def test_a_prompt_that_starts_from_another_one_gives_a_notice(tmp_path):
    """Only if the source has it too: a new one has to start from some other."""
    prior, two = colored_shapes(12), ("red disc", "blue ring")
    write_run(tmp_path, experiment(prompts=two), prior)
    config = replace(SMALL, init_from=tmp_path, init_color_std=0.1)
    for prompts, given in ((two, False), (("green disc", two[1]), False), (two[::-1], True)):
        with display_notices(lambda text: None), collect_notices() as notices:
            Run(experiment(prompts=prompts, representation=config, particles=4), prior)
        named = [text for text in notices if '"blue ring" starts from "red disc"' in text]
        assert len(named) == given


@pytest.fixture(scope="module")
def nerf_run(tmp_path_factory) -> tuple[Path, Run]:
    """Folder and run of a NeRF that is a ball."""
    folder = tmp_path_factory.mktemp("nerf")
    nerf = NeRF(
        encoding=DenseGridEncoding(resolutions=(8,)),
        density_init=Magic3DDensityInit(scale=40.0, radius=0.6),
        occupancy_resolution=8,
    )
    e = experiment(representation=nerf, particles=1)
    return folder, write_run(folder, e, colored_shapes(32))


@pytest.fixture
def few_views(monkeypatch):
    monkeypatch.setattr(splat_init, "_VIEWS", 12)


def silhouette_and_color_errors(run: Run, splats: Representation) -> tuple[float, float]:
    """Of splats against a NeRF, seen from the front."""
    request = RenderRequest(torch.tensor([0]), float_camera(front_camera()))
    with torch.no_grad():
        a, b = run.representation.render(request), splats.render(request)
    opaque = a.alpha > 0.9
    assert float(opaque.float().mean()) > 0.05
    color = (a.image - b.image).abs()[opaque.expand_as(a.image)]
    return float((a.alpha - b.alpha).abs().mean()), float(color.mean())


def test_gaussians_cover_the_sides_where_the_box_cuts_a_field_off():
    nerf = NeRF(density_init=Magic3DDensityInit(20.0, 1.5), bound=0.8)
    field = nerf.build(colored_shapes(12), 1, 0)
    points, _ = field_surface(field, 0, 300, 1.3, rng(0), "cpu")
    assert points.abs().max() <= 0.8001
    for axis in range(3):
        for sign in (-1, 1):
            assert int((sign * points[:, axis] > 0.5).sum()) > 10


def test_gaussians_cover_the_surface_of_a_nerf(nerf_run):
    folder, run = nerf_run
    config = GaussianSplats(num_gaussians=1500, init_from=folder, init_fit_steps=0)
    splats = build_representation(config, run.prior, 1, 0)
    alpha, color = silhouette_and_color_errors(run, splats)
    assert alpha < 0.1 and color < 0.05
    assert splats.init_message == f"initialized from {folder}"


def test_the_fit_brings_them_closer_to_its_renders(nerf_run, few_views):
    """At any learning rate of the run; placed on the surface only, splats stand out of it."""
    folder, run = nerf_run
    placed = GaussianSplats(num_gaussians=300, init_from=folder, init_fit_steps=0)
    before, _ = silhouette_and_color_errors(run, build_representation(placed, run.prior, 1, 0))
    for means_lr in (5e-3, 5e-6):
        fitted = replace(placed, init_fit_steps=25, means_lr=means_lr)
        splats = build_representation(fitted, run.prior, 1, 0)
        after, color = silhouette_and_color_errors(run, splats)
        assert after < 0.6 * before and color < 0.05
        assert all(p.grad is None for p in splats.parameters())
        assert not splats.num_relocated.any()
    psnr = float(re.search(r"color PSNR ([\d.]+) dB after 25 steps", splats.init_message)[1])
    assert psnr > 20
    again = build_representation(fitted, run.prior, 1, 0)
    assert all(map(torch.equal, splats.parameters(), again.parameters()))


def test_a_mesh_of_ones_own_becomes_splats(tmp_path, few_views):
    """On its surface, in its colors and its place in the world."""
    write_own_meshes(tmp_path)
    prior = colored_shapes(32)
    mesh = Mesh(from_=tmp_path / "nodes.glb", start="file", shading="texture")
    folder = tmp_path / "run"
    folder.mkdir()
    run = write_run(folder, experiment(representation=mesh, particles=1), prior)
    config = GaussianSplats(num_gaussians=1500, init_from=folder, init_fit_steps=0)
    placed = build_representation(config, prior, 1, 0)
    alpha, _ = silhouette_and_color_errors(run, placed)
    fitted = build_representation(replace(config, init_fit_steps=25), prior, 1, 0)
    fitted_alpha, color = silhouette_and_color_errors(run, fitted)
    assert fitted_alpha < min(alpha, 0.05) and color < 0.1
    surface = world_snapshot(run.representation.asset(0))
    low, high = surface.vertices.amin(0), surface.vertices.amax(0)
    means = placed.params["means"][0]
    assert max_difference(means.amin(0), low) < 0.05 and max_difference(means.amax(0), high) < 0.05


def test_any_number_of_gaussians_lies_on_the_surface_of_a_dmtet():
    """Its density is soft: over the distance of many neighbors, nothing is opaque."""
    prior = colored_shapes(12)
    source = DMTet(grid_resolution=24, init_radii=(0.6, 0.6, 0.6)).build(prior, 1, 0)
    for count in (500, 9000):
        config = GaussianSplats(num_gaussians=count, init_fit_steps=0)
        splats = config.build(prior, 1, 0)
        splats.initialize_from(source, 1, Path("run"), 0)
        distance = splats.params["means"][0].detach().norm(dim=1) - 0.6
        assert float(distance.abs().max()) < 0.1 * source.grid.cell_size


@pytest.mark.parametrize("shading", ["lit", "normals"])
def test_the_shading_of_a_source_does_not_stay_in_the_colors(few_views, shading):
    prior = colored_shapes(32)
    source = DMTet(grid_resolution=12, shading=shading, ambient=0.0).build(prior, 1, 0)
    config = GaussianSplats(num_gaussians=200, init_fit_steps=25)
    splats = config.build(prior, 1, 0)
    splats.initialize_from(source, 1, Path("run"), 0)
    asset = splats.asset(0)
    albedo = source.albedo(asset.means, 0).detach()
    assert float((asset.colors - albedo).abs().mean()) < 0.02


def test_particles_are_fitted_independently(nerf_run, few_views):
    """Two particles of one source are two sets of points; the first is that of a single one."""
    folder, run = nerf_run
    config = GaussianSplats(num_gaussians=200, init_from=folder, init_fit_steps=3)
    one, two = (build_representation(config, run.prior, count, 0) for count in (1, 2))
    assert torch.equal(one.params["means"][0], two.params["means"][0])
    assert not torch.equal(two.params["means"][0], two.params["means"][1])


def test_a_2d_run_is_refused(tmp_path):
    prior = colored_shapes(12)
    write_run(tmp_path, experiment(representation=Pixels(), cameras=None, particles=1), prior)
    with pytest.raises(ValueError, match="no density and colors in space"):
        build_representation(replace(SMALL, init_from=tmp_path, init_color_std=0.1), prior, 1, 0)


def test_each_particle_is_saved_as_ply(tmp_path):
    particles = perturb(splat_particles(GaussianSplats(num_gaussians=5), 2))
    particles.save(tmp_path, ["01-01", "01-02"])
    means = read_gaussian_ply(tmp_path / "01-02.ply").means
    assert max_difference(means, particles.params["means"][1]) < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    config = GaussianSplats(num_gaussians=300, init_color_std=1.0)
    particles = perturb(splat_particles(config, 2), 0.2)
    request = RenderRequest(torch.tensor([0, 1, 1]), float_camera(cameras_around(3)))
    on_cpu, on_cuda = particles.render(request), particles.cuda().render(request)
    for name in ("image", "alpha"):
        assert max_difference(getattr(on_cpu, name), getattr(on_cuda, name).cpu()) < 5e-3
