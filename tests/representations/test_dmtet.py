"""DMTet: rendering, gradients, resumed runs, and initialization from other runs."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from meshes import is_closed
from tiny_pipeline import max_difference, normal

from limbeck.config.yaml import to_yaml
from limbeck.graphics.cameras.camera import turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import NoCamera, Orbit
from limbeck.graphics.export.mesh_cleanup import is_closed_surface
from limbeck.graphics.fields.background import SolidBackground
from limbeck.graphics.fields.decoders import IdentityDecoder, MLPDecoder
from limbeck.graphics.fields.density_init import Magic3DDensityInit
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.frequency import FrequencyEncoding
from limbeck.graphics.geometry.mesh import MeshTopology, mesh_volume
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import match_particles
from limbeck.representations.dmtet import DMTet, DMTetParticles
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.system.checkpoint import write_checkpoint
from limbeck.system.notices import collect_notices, display_notices
from limbeck.system.random import RowRandom
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run
from limbeck.training.warm_start import build_representation, load_representation

COARSE = DMTet(
    grid_resolution=8,
    encoding=DenseGridEncoding(resolutions=(4, 8)),
    decoder=MLPDecoder(hidden_dim=8),
    laplacian_weight=1.0,
    normal_consistency_weight=1.0,
    background=SolidBackground(color=(0.2, 0.4, 0.6)),
)
TEXTURE_ONLY = {"geometry": False, "shading": "texture"}


def tiny_prior():
    return colored_shapes(12)


def views_of(*particles: int, seed: int | None = None) -> RenderRequest:
    """One view per particle, from all around."""
    camera = turntable_cameras(len(particles), 15, 3.6, 40)
    return RenderRequest(
        torch.tensor(particles),
        camera,
        None if seed is None else RowRandom.of_step(seed, 0, torch.tensor(particles)),
    )


@pytest.mark.parametrize("shading", ["texture", "lit", "clay", "normals", "facing"])
def test_the_initial_render_is_a_gray_ellipsoid_in_front_of_the_background(shading):
    config = replace(COARSE, grid_resolution=16, init_radii=(0.4, 0.8, 0.6), shading=shading)
    mesh = config.build(colored_shapes(64), 1, 0)
    out = mesh.render(views_of(0, 0, 0, 0))
    assert out.image.shape == (4, 3, 64, 64)
    assert max_difference(out.image[0, :, 0, 0], torch.tensor([0.2, 0.4, 0.6])) < 1e-6
    center = out.image[0, :, 32, 32]
    if shading == "facing":
        assert center[2] > 0.98
        assert out.image[0, 0, 32, 40] > 0.6 > 0.4 > out.image[0, 0, 32, 24]  # x to the right
    elif shading == "normals":
        assert center[2] > 0.95  # the front faces +z
    elif shading != "clay":
        assert center.min() > 0.35 and center.max() < 0.65
    area = out.alpha.sum((1, 2, 3))
    assert area[1] / area[0] > 1.3  # side 0.6 : 0.8, front 0.4 : 0.8
    covered = out.alpha[:, 0] == 1
    lengths = out.normal.norm(dim=1)[covered]
    assert max_difference(lengths, torch.ones(len(lengths))) < 1e-5
    assert abs(out.depth[0, 0, 32, 32].item() - (3.6 - 0.6)) < 0.05


def test_the_gradient_of_a_particle_does_not_depend_on_the_others():
    mesh = COARSE.build(tiny_prior(), 3, 0)
    grads = []
    for particles in ((1,), (1, 2)):
        mesh.zero_grad(set_to_none=True)
        camera = turntable_cameras(1, 15, 3.6, 40)[torch.zeros(len(particles), dtype=torch.long)]
        out = mesh.render(RenderRequest(torch.tensor(particles), camera))
        (out.image[0].square().sum() + sum(mesh.regularize(out, 0.0).values())).backward()
        grads.append(mesh.sdf[1].grad.clone())
        moved = {
            name.split(".")[1]
            for name, p in mesh.named_parameters()
            if p.grad is not None and bool(p.grad.any())
        }
        assert moved <= {str(particle) for particle in particles} and "1" in moved
    assert len(mesh.surface(1)[0]) and grads[0].any()


def test_regularization_counts_a_particle_once_however_often_it_is_rendered():
    mesh = COARSE.build(tiny_prior(), 3, 0)
    once, twice = (mesh.regularize(mesh.render(views_of(*p)), 0.0) for p in ((1,), (1, 1)))
    assert once.keys() == twice.keys() and all(torch.equal(once[k], twice[k]) for k in once)


def optimized_parts(mesh: DMTetParticles) -> set[str]:
    optimized = {id(p) for group in mesh.param_groups() for p in group["params"]}
    assert optimized == {id(p) for p in mesh.parameters() if p.requires_grad}
    return {name.split(".")[0] for name, p in mesh.named_parameters() if id(p) in optimized}


def test_frozen_parts_are_not_in_the_optimizer():
    prior = tiny_prior()
    assert optimized_parts(COARSE.build(prior, 1, 0)) == {"sdf", "deform", "color_fields"}
    normals = replace(COARSE, shading="normals").build(prior, 1, 0)
    assert optimized_parts(normals) == {"sdf", "deform"}
    texture = replace(COARSE, **TEXTURE_ONLY).build(prior, 1, 0)
    assert optimized_parts(texture) == {"color_fields"}
    assert not texture.regularize(texture.render(views_of(0)), 0.0)


def test_a_fixed_surface_is_cached_until_a_state_is_loaded():
    mesh = COARSE.build(tiny_prior(), 1, 0)
    assert mesh.surface(0) is not mesh.surface(0)
    fixed = replace(COARSE, **TEXTURE_ONLY).build(tiny_prior(), 1, 0)
    assert fixed.surface(0) is fixed.surface(0)
    before = fixed.surface(0)[0].norm(dim=1).mean()
    state = fixed.state_dict()
    state["init_sdf"] = state["init_sdf"] + 0.1
    fixed.load_state_dict(state)
    after = fixed.surface(0)[0].norm(dim=1).mean()
    assert abs((before - after).item() - 0.1) < 0.02


def test_silhouettes_alone_turn_a_sphere_into_an_ellipsoid():
    """Adam on the squared error of four alpha images: half axes to a quarter of a cell."""
    prior, radii = colored_shapes(32), (0.45, 0.85, 0.6)
    config = replace(
        COARSE,
        grid_resolution=16,
        sdf_lr=2e-2,
        shading="clay",
        laplacian_weight=0.0,
        normal_consistency_weight=0.0,
    )
    views = views_of(0, 0, 0, 0)
    with torch.no_grad():
        target = replace(config, init_radii=radii).build(prior, 1, 0).render(views).alpha
    mesh = replace(config, init_radii=(0.6, 0.6, 0.6)).build(prior, 1, 0)
    optimizer = torch.optim.Adam(mesh.param_groups())
    for step in range(60):
        optimizer.param_groups[0]["lr"] = config.sdf_lr * (1 - step / 60)
        optimizer.zero_grad()
        (mesh.render(views).alpha - target).square().mean().backward()
        optimizer.step()
    reached = mesh.surface(0)[0].detach().abs().amax(0)
    assert max_difference(reached, torch.tensor(radii)) < mesh.grid.cell_size / 4, reached


@pytest.mark.parametrize(
    "config", [COARSE, replace(COARSE, sdf_blur=0.0, **TEXTURE_ONLY)], ids=["default", "texture"]
)
def test_a_resumed_run_is_bit_identical(config):
    experiment = Experiment(
        ("a red disc",),
        model="gaussians",
        method=SDS(5.0),
        representation=config,
        cameras=Orbit(2),
        particles=2,
        batch_size=1,
        steps=5,
    )
    whole = Run(experiment, tiny_prior())
    for _ in range(3):
        whole.advance()
    saved = {name: value.clone() for name, value in whole.tensors().items()}
    torch.manual_seed(123)  # the global generator must not matter
    resumed = Run(experiment, tiny_prior())
    resumed.load(saved, 3)
    for _ in range(2):
        assert torch.equal(whole.advance().gradient, resumed.advance().gradient)
    a, b = whole.tensors(), resumed.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], saved[name]) for name in saved)


def test_signed_distance_density_and_asset_agree_with_the_surface():
    config = replace(COARSE, grid_resolution=24, init_radii=(0.6, 0.6, 0.6))
    mesh = config.build(tiny_prior(), 1, 0)
    points = 0.7 * normal(200, 3, seed=1).float()
    near = points[(points.norm(dim=1) - 0.6).abs() < 0.3]
    assert max_difference(mesh.signed_distance(near, 0), near.norm(dim=1) - 0.6) < 0.01
    on_surface = torch.nn.functional.normalize(points, dim=1) * 0.6
    expected = torch.full((200,), 0.5 / mesh.grid.cell_size)
    assert max_difference(mesh.density(on_surface, 0), expected) < 0.05 * expected[0]
    asset = mesh.asset(0)
    assert (asset.vertices.norm(dim=1) - 0.6).abs().max() < 0.01
    assert mesh_volume(asset.vertices, MeshTopology(asset.faces, 0)) > 0
    color = asset.color(points)
    assert not color.requires_grad
    with torch.no_grad():  # kernels that keep a gradient may round differently
        assert torch.equal(color, mesh.albedo(points, 0))


def test_a_lost_surface_raises():
    mesh = COARSE.build(tiny_prior(), 1, 0)
    mesh.init_sdf += 9
    with pytest.raises(ValueError, match="particle 0 has no surface left"):
        mesh.render(views_of(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid_resolution": 3}, "grid_resolution must be at least 4, not 3"),
        ({"bound": 0.5}, "init_radii must be more than a cell, 0.03125, and less than bound, 0.5"),
        ({"init_radii": (0.7, 0.7, 0.01)}, "more than a cell"),
        (
            {"encoding": FrequencyEncoding(), "decoder": IdentityDecoder()},
            "decoder identity learns nothing",
        ),
        ({"ambient": 1.5}, r"ambient must be in \[0, 1\], not 1.5"),
        ({"sdf_lr": 0.0}, "sdf_lr must be positive, not 0"),
        ({"laplacian_weight": -1.0}, "laplacian_weight must not be negative"),
        ({"init_steps": -1}, "init_steps must not be negative"),
        ({"iso_level": -1.0}, "iso_level must not be negative"),
        ({"sdf_blur": -1.0}, "sdf_blur must not be negative"),
        ({"images": (Path("a.png"),)}, "leave out images"),
        ({"geometry": False, "texture": False}, "texture must be true"),
        ({"geometry": False, "shading": "normals"}, "shading must be one of .*, not normals"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DMTet(**options)


def test_cameras_are_required():
    with pytest.raises(ValueError, match="DMTet needs cameras: --cameras orbit"):
        COARSE.build(tiny_prior(), 1, 0).render(RenderRequest(torch.tensor([0])))
    with pytest.raises(ValueError, match="do not suit the representation dmtet"):
        Experiment(("a",), representation=DMTet(), cameras=NoCamera())


# Initialization from other runs


def write_run(folder: Path, representation, particles: int = 1, change=None) -> Path:
    """Write the folder of a run that was stopped before its first step."""
    experiment = Experiment(
        ("a red disc",), model="gaussians", representation=representation, particles=particles
    )
    run = Run(experiment, tiny_prior())
    if change is not None:
        with torch.no_grad():
            change(run.representation)
    folder.mkdir()
    (folder / "run.yaml").write_text(to_yaml(experiment))
    write_checkpoint(folder / "checkpoint.safetensors", run.tensors(), {"step": 1})
    return folder


FLAT_GRID = DenseGridEncoding(resolutions=(3,), init_std=0.0)  # features 0 everywhere


def test_a_mesh_takes_the_iso_surface_and_colors_of_a_nerf(tmp_path):
    """Magic3D's initial density is 10 (1 - r / .5) before the softplus, so the density d is at
    r = .5 (1 - log(e^d - 1) / 10)."""

    def paint(nerf):
        nerf.field(0).encoding.levels[0][..., 1] = torch.linspace(-2, 2, 3)  # last axis: x

    nerf = NeRF(encoding=FLAT_GRID, density_init=Magic3DDensityInit(10.0, 0.5))
    config = replace(
        COARSE,
        grid_resolution=24,
        encoding=DenseGridEncoding(resolutions=(8, 16)),
        decoder=MLPDecoder(),
        init_from=write_run(tmp_path / "nerf", nerf, change=paint),
        iso_level=4.0,
        init_steps=100,
    )
    mesh = build_representation(config, tiny_prior(), 1, 0)
    radius = 0.5 * (1 - math.log(math.expm1(4.0)) / 10)
    vertices, topology = mesh.surface(0)
    sagitta = 3 * 0.1**2 / (8 * radius)  # height of an arc over the diagonal of a cube
    assert is_closed(topology) and (vertices.norm(dim=1) - radius).abs().max() < sagitta
    expected = (2 * vertices[:, 0] / 1.2).sigmoid()
    color = mesh.albedo(vertices, 0).detach()
    assert (color[:, 0] - expected).abs().max() < 0.02
    assert (color[:, 1:] - 0.5).abs().max() < 0.02
    assert "initialized from" in mesh.init_message
    assert f"{len(topology.faces):,} faces" in mesh.init_message


def test_without_an_iso_level_the_mesh_covers_the_half_opaque_pixels_of_a_nerf(tmp_path):
    prior = colored_shapes(48)
    nerf = NeRF(encoding=FLAT_GRID, density_init=Magic3DDensityInit(8.0, 0.8))
    folder = write_run(tmp_path / "nerf", nerf)
    source, _ = load_representation(folder, prior)
    mesh = build_representation(replace(COARSE, grid_resolution=32, init_from=folder), prior, 1, 0)
    views = views_of(0, 0, 0, 0)
    with torch.no_grad():
        a, b = (representation.render(views).alpha > 0.5 for representation in (source, mesh))
    assert (a & b).sum() / (a | b).sum() > 0.95


def test_a_mesh_of_the_same_grid_is_copied_and_of_another_grid_resampled(tmp_path):
    def change(mesh):
        for i in range(2):
            mesh.sdf[i].add_(0.05 * normal(729, seed=i).float())
            mesh.deform[i].add_(0.3 * normal(729, 3, seed=i).float())

    folder = write_run(tmp_path / "mesh", COARSE, 2, change)
    source, particles = load_representation(folder, tiny_prior())
    assert isinstance(source, DMTetParticles) and particles == 2
    checkpoint = folder / "checkpoint.safetensors"
    config = replace(COARSE, init_from=checkpoint, **TEXTURE_ONLY)
    copy = build_representation(config, tiny_prior(), 4, 1)
    points = normal(50, 3, seed=1).float()
    for i, j in enumerate((0, 0, 1, 1)):
        assert max_difference(copy.surface(i)[0], source.surface(j)[0]) < 1e-6
        assert torch.equal(copy.albedo(points, i), source.albedo(points, j))
    config = replace(COARSE, grid_resolution=16, init_from=folder)
    finer = build_representation(config, tiny_prior(), 2, 0)
    volumes = [mesh_volume(*mesh.surface(1)).item() for mesh in (finer, source)]
    assert abs(volumes[0] / volumes[1] - 1) < 0.05
    with pytest.raises(ValueError, match="2 particles for 3"):
        build_representation(replace(COARSE, init_from=folder), tiny_prior(), 3, 0)


@pytest.mark.parametrize("grid_resolution", [8, 12], ids=["copied", "resampled"])
@pytest.mark.parametrize("frozen", [{}, TEXTURE_ONLY], ids=["default", "texture"])
def test_a_resumed_run_does_without_the_run_that_it_started_from(tmp_path, grid_resolution, frozen):
    def change(mesh):
        mesh.sdf[0].add_(0.05 * normal(729).float())
        mesh.deform[0].add_(0.3 * normal(729, 3).float())

    source = write_run(tmp_path / "mesh", COARSE, 1, change)
    config = replace(
        COARSE, init_from=source, grid_resolution=grid_resolution, init_steps=3, **frozen
    )
    e = Experiment(
        ("a red disc",), model="gaussians", method=SDS(5.0), representation=config, steps=3
    )
    whole = Run(e, tiny_prior())
    whole.advance()
    saved = {name: value.clone() for name, value in whole.tensors().items()}
    shutil.rmtree(source)
    resumed = Run(e, tiny_prior(), pretrain=False)
    resumed.load(saved, 1)
    for _ in range(2):
        assert torch.equal(whole.advance().gradient, resumed.advance().gradient)
    a, b = whole.tensors(), resumed.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "larger",
    [
        replace(COARSE, grid_resolution=16, bound=2.0, init_radii=(1.2, 1.2, 1.2)),
        NeRF(encoding=FLAT_GRID, density_init=Magic3DDensityInit(20.0, 1.5), bound=2.0),
    ],
)
def test_a_source_that_the_grid_cuts_off_gives_a_notice(larger):
    source = larger.build(tiny_prior(), 1, 0)
    for bound, given in ((1.0, True), (1.8, False)):
        mesh = replace(COARSE, bound=bound, iso_level=4.0, init_steps=0).build(tiny_prior(), 1, 0)
        with display_notices(lambda text: None), collect_notices() as notices:
            mesh.initialize_from(source, 1, Path("run"), 0)
        cut = [text for text in notices if " % of particle 0 of run lies outside" in text]
        assert len(cut) == given
        assert not cut or re.search(r"set --representation.bound 1\.[23], not 1$", cut[0])


@pytest.mark.parametrize("iso_level", [0.0, 1.0])
def test_what_the_box_of_a_source_cuts_off_does_not_go_on_in_a_larger_grid(iso_level):
    """A density that fills its box, and a ball that reaches to it, end there."""
    full = NeRF(encoding=FLAT_GRID, density_init=Magic3DDensityInit(20.0, 1.5), bound=0.8)
    cut = replace(COARSE, grid_resolution=9, bound=0.8, init_radii=(0.6,) * 3)
    for source in (full.build(tiny_prior(), 1, 0), cut.build(tiny_prior(), 1, 0)):
        if isinstance(source, DMTetParticles):
            source.init_sdf.fill_(-0.3)  # inside everywhere
        config = replace(COARSE, grid_resolution=16, iso_level=iso_level, init_steps=0)
        mesh = config.build(tiny_prior(), 1, 0)
        mesh.initialize_from(source, 1, Path("run"), 0)
        assert mesh.surface(0)[0].abs().max() < 0.8 + mesh.grid.cell_size


def test_distances_of_zero_leave_the_surface_closed_and_no_face_without_area():
    """A ball of radius .5 passes through vertices of a grid whose cells are 1/4."""
    config = replace(COARSE, bound=1.0, init_radii=(0.5, 0.5, 0.5))
    mesh = config.build(tiny_prior(), 1, 0)
    assert (mesh.vertex_sdf(0).abs() < 1e-7).any()
    vertices, topology = mesh.surface(0)
    assert is_closed_surface(vertices, topology.faces)
    vertices.square().sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in mesh.parameters())


def test_runs_that_a_mesh_cannot_start_from_are_refused(tmp_path):
    def initialize_from(folder: Path, **options):
        config = replace(COARSE, init_from=folder, **options)
        return build_representation(config, tiny_prior(), 1, 0)

    with pytest.raises(ValueError, match="holds no run to start from"):
        initialize_from(tmp_path)
    latents = write_run(tmp_path / "latents", Latents())
    with pytest.raises(ValueError, match="no density and colors in space"):
        initialize_from(latents)
    thin = write_run(tmp_path / "thin", NeRF(encoding=FLAT_GRID))
    with pytest.raises(ValueError, match="no surface left"):
        initialize_from(thin, iso_level=1e3)
    other = write_run(tmp_path / "other", replace(COARSE, grid_resolution=9))
    text = (other / "run.yaml").read_text()
    (other / "run.yaml").write_text(text.replace("grid_resolution: 9", "grid_resolution: 10"))
    with pytest.raises(ValueError, match="was written by another version"):
        initialize_from(other)


def test_particles_are_matched_one_for_all_per_prompt_or_each():
    source = Path("run")
    assert match_particles(1, 3, source) == [0, 0, 0]
    assert match_particles(2, 4, source) == [0, 0, 1, 1]
    assert match_particles(3, 3, source) == [0, 1, 2]
    with pytest.raises(ValueError, match="run has 2 particles for 3 of this run"):
        match_particles(2, 3, source)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu():
    config = replace(COARSE, grid_resolution=24)
    meshes = config.build(tiny_prior(), 2, 0), config.build(tiny_prior(), 2, 0).cuda()
    renders = [mesh.render(views_of(0, 1, 1)) for mesh in meshes]
    for mesh, render in zip(meshes, renders, strict=True):
        (render.image.square().sum() + sum(mesh.regularize(render, 0.0).values())).backward()
    assert max_difference(renders[0].image, renders[1].image.cpu()) < 1e-4
    for a, b in zip(*(mesh.parameters() for mesh in meshes), strict=True):
        assert max_difference(a.grad, b.grad.cpu()) < 1e-3 * max(1.0, a.grad.abs().max().item())
