"""3D Gaussians: the projection and the compositing against closed forms, relocation against eq. 9, runs that resume, files."""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import pytest
import torch
from tiny_pipeline import check_gradients, normal, rng, max_difference

from limbeck.config import yaml as config
from limbeck.graphics.cameras.camera import Camera, orbit_cameras, turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.density_init import Magic3DDensityInit
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.geometry.gaussian_ply import PLY_PROPERTIES, SH_C0, read_gaussian_ply, write_gaussian_ply
from limbeck.graphics.geometry.surface_sampling import mean_neighbor_distance, sample_surface_points
from limbeck.graphics.rendering.gaussian_compositing import LOW_PASS_VARIANCE, MIN_ALPHA, composite_gsplat, composite_torch
from limbeck.graphics.rendering.gaussian_projection import GaussianBatch, depth_to_normals, project_gaussians, quats_to_rotations, render_gaussians
from limbeck.graphics.rendering.gaussian_relocation import choose_relocations, reset_optimizer_state, split_opacity_and_scale
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.gaussian_splats import GaussianSplatParticles, GaussianSplats
from limbeck.representations.nerf import NeRF
from limbeck.representations.pixels import Pixels
from limbeck.system.checkpoint import write_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam, SGD
from limbeck.training.trainer import Run
from limbeck.training.warm_start import build_representation

DISTANCE, FOV = 3.6, 40.0
FOCAL = 1 / (2 * math.tan(math.radians(FOV / 2)))  #: in heights of the picture


def front(count: int = 1) -> Camera:
    camera = turntable_cameras(1, 0.0, DISTANCE, FOV)[torch.zeros(count, dtype=torch.long)]
    return Camera(camera.pose.double(), camera.fov.double())


def one(
    place, scale, opacity: float, colour=(1.0, 0.5, 0.2), turn=(1.0, 0.0, 0.0, 0.0)
) -> GaussianBatch:
    turn = torch.nn.functional.normalize(torch.tensor([[turn]], dtype=torch.float64), dim=-1)
    row = lambda values: torch.tensor([[values]], dtype=torch.float64)  # noqa: E731
    return GaussianBatch(
        row(place), row(scale), turn, torch.tensor([[opacity]], dtype=torch.float64), row(colour)
    )


def joined(*those: GaussianBatch) -> GaussianBatch:
    return GaussianBatch(
        *(torch.cat([vars(each)[name] for each in those], 1) for name in vars(those[0]))
    )


def some(count: int, views: int = 1, seed: int = 0, size: float = 0.12) -> GaussianBatch:
    """Turned, long and short, some faint, all about the origin; the same in every view."""
    draw = lambda k, *shape: normal(1, count, *shape, seed=seed + k).repeat(
        views, *[1] * (1 + len(shape))
    )  # noqa: E731
    turn = torch.nn.functional.normalize(draw(2, 4), dim=-1)
    return GaussianBatch(
        0.5 * draw(0, 3),
        size * (0.6 * draw(1, 3)).exp(),
        turn,
        0.98 * draw(3).sigmoid(),
        draw(4, 3).sigmoid(),
    )


def orbit(count: int) -> Camera:
    camera = orbit_cameras(
        torch.linspace(0.3, 5, count), torch.linspace(-0.2, 1.2, count), DISTANCE, FOV
    )
    return Camera(camera.pose.double(), camera.fov.double())


def pixels(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float64) + 0.5 for side in (height, width)), indexing="ij"
    )
    return y, x


# One and two Gaussians by hand


def test_a_round_gaussian_on_the_axis_is_its_closed_form():
    y, x = pixels(48, 64)
    near = 0.4
    seen = render_gaussians(one((0, 0, near), (0.1, 0.1, 0.1), 0.8), front(), 48, 64)
    variance = (0.1 * 48 * FOCAL / (DISTANCE - near)) ** 2 + LOW_PASS_VARIANCE
    alpha = 0.8 * torch.exp(-((x - 32) ** 2 + (y - 24) ** 2) / (2 * variance))
    alpha = torch.where(alpha > MIN_ALPHA, alpha, 0)
    assert max_difference(seen.alpha[0, 0], alpha) < 1e-6  # poses are made in single precision
    assert max_difference(seen.color[0], alpha * torch.tensor([1.0, 0.5, 0.2])[:, None, None]) < 1e-6
    assert max_difference(seen.depth[0, 0], torch.where(alpha > 0, DISTANCE - near, 0)) < 1e-5


def test_the_footprint_is_the_covariance_carried_by_the_jacobian():
    """J by differences of the camera's own projection, so that signs and axes are those of the picture."""
    solid, camera = some(12), orbit(3)
    solid = GaussianBatch(*(part.expand(3, *part.shape[1:]) for part in vars(solid).values()))
    cloud = project_gaussians(solid, camera, 30, 50)
    for b in range(3):
        for i in range(12):
            at = lambda place: camera.project(place[None], 30, 50)[b, 0, :2]  # noqa: B023, E731
            where, step = solid.means[b, i], 1e-5
            axes = torch.eye(3, dtype=torch.float64)
            columns = [
                (at(where + step * axis) - at(where - step * axis)) / (2 * step) for axis in axes
            ]
            jacobian, turn = torch.stack(columns, 1), quats_to_rotations(solid.quats[b, i])
            world = turn @ solid.scales[b, i].square().diag() @ turn.T
            wanted = jacobian @ world @ jacobian.T + LOW_PASS_VARIANCE * torch.eye(2, dtype=torch.float64)
            xx, xy, yy = cloud.conics[b, i]
            assert (
                max_difference(
                    torch.stack([xx, xy, xy, yy]).view(2, 2) @ wanted,
                    torch.eye(2, dtype=torch.float64),
                )
                < 1e-6
            )
            assert max_difference(cloud.means[b, i], at(where)) < 1e-9
            assert max_difference(cloud.stds[b, i], wanted.diagonal().sqrt()) < 1e-6


def test_two_lie_over_one_another_as_by_hand():
    far, near = (
        one((0.1, 0, -0.3), (0.2, 0.2, 0.2), 0.9, (0, 1, 0)),
        one((0, 0.05, 0.5), (0.1, 0.1, 0.1), 0.6, (1, 0, 0)),
    )
    alone = [render_gaussians(each, front(), 40, 40) for each in (near, far)]
    a, b = (each.alpha for each in alone)
    both = render_gaussians(joined(far, near), front(), 40, 40)
    assert max_difference(both.color, alone[0].color + (1 - a) * alone[1].color) < 1e-12
    assert max_difference(both.alpha, 1 - (1 - a) * (1 - b)) < 1e-12
    depth = (a * (DISTANCE - 0.5) + (1 - a) * b * (DISTANCE + 0.3)) / (
        1 - (1 - a) * (1 - b)
    ).clamp_min(1e-6)
    assert max_difference(both.depth, depth) < 1e-5


def dense(solid: GaussianBatch, camera: Camera, height: int, width: int) -> torch.Tensor:
    """Colour, depth and what is left, Gaussian after Gaussian over all pixels by their depths."""
    cloud = project_gaussians(solid, camera, height, width)
    y, x = pixels(height, width)
    out = []
    for b in range(len(camera)):
        image, through = (
            torch.zeros(4, height, width, dtype=torch.float64),
            torch.ones(height, width, dtype=torch.float64),
        )
        for i in cloud.depths[b].argsort().tolist():
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


def test_tiles_change_nothing():
    solid, camera = some(80, views=3), orbit(3)
    cloud = project_gaussians(solid, camera, 21, 34)
    assert max_difference(torch.cat(composite_torch(cloud, 21, 34), 1), dense(solid, camera, 21, 34)) < 1e-10
    single = project_gaussians(GaussianBatch(*(part.float() for part in vars(solid).values())), camera, 21, 34)
    apart = (torch.cat(composite_torch(single, 21, 34), 1).double() - dense(solid, camera, 21, 34)).abs()
    assert (
        float(apart.median()) < 1e-6 and float(apart.amax()) < 1e-2
    )  # an alpha at the threshold may fall on either side


def test_the_order_of_the_gaussians_does_not_matter():
    solid, camera = some(60, views=2), orbit(2)
    shuffled = torch.randperm(60, generator=rng(3))
    other = GaussianBatch(*(part[:, shuffled] for part in vars(solid).values()))
    a, b = render_gaussians(solid, camera, 24, 24), render_gaussians(other, camera, 24, 24)
    assert max(max_difference(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)) < 1e-12


def test_what_is_behind_or_faint_is_not_there_and_has_finite_gradients():
    behind, beside = (
        one((0, 0, DISTANCE + 0.5), (0.2,) * 3, 0.9),
        one((0, 0, DISTANCE), (0.2,) * 3, 0.9),
    )
    faint, seen = one((0, 0, 0), (0.2,) * 3, 0.0039), one((0, 0.1, 0), (0.2,) * 3, 0.7)
    all_of = GaussianBatch(
        *(part.requires_grad_() for part in vars(joined(behind, beside, faint, seen)).values())
    )
    both = render_gaussians(all_of, front(), 24, 24)
    assert max_difference(both.alpha, render_gaussians(seen, front(), 24, 24).alpha) < 1e-12
    (both.color.sum() + both.depth.sum()).backward()
    for part in vars(all_of).values():
        assert bool(part.grad.isfinite().all()) and bool((part.grad[0, :3] == 0).all())
    nothing = render_gaussians(joined(behind, faint), front(), 24, 24)
    assert float(nothing.alpha.abs().max()) == 0 and nothing.color.shape == (1, 3, 24, 24)


def test_sharp_ones_keep_their_light_at_every_size():
    """The integral of alpha over the picture, in its own units: constant where a pixel is large, and not without."""
    speck = one((0, 0, 0), (0.004,) * 3, 0.5)
    light = lambda side, sharp: (
        float(render_gaussians(speck, front(), side, side, antialiased=sharp).alpha.sum()) / side**2
    )  # noqa: E731
    whole = [[light(side, sharp) for side in (64, 512)] for sharp in (True, False)]
    true = 0.5 * 2 * math.pi * (0.004 * FOCAL / DISTANCE) ** 2
    assert whole[1][0] > 10 * true
    large = one((0, 0, 0), (0.2,) * 3, 0.5)
    a, b = (render_gaussians(large, front(), 64, 64, antialiased=sharp).alpha for sharp in (True, False))
    assert max_difference(a, b) < 0.01
    assert whole[0][1] == pytest.approx(true, rel=0.1)


# Gradients


def particles(
    spec: GaussianSplats, count: int = 1, size: tuple[int, int] = (12, 12), seed: int = 0
) -> GaussianSplatParticles:
    return GaussianSplatParticles(spec, spec._initial_params(count, seed), size, seed)


def roughened(
    made: GaussianSplatParticles, by: float = 0.3, seed: int = 0
) -> GaussianSplatParticles:
    for i, p in enumerate(made.parameters()):
        p.data += by * normal(*p.shape, seed=seed + i, dtype=p.dtype)
    return made


@pytest.mark.parametrize("sharp", [False, True])
def test_gradients_are_finite_differences(sharp):
    spec = GaussianSplats(num_gaussians=6, init_color_std=1.0, init_opacity=0.5, antialiased=sharp)
    made = roughened(
        particles(spec).double(), seed=50
    )  # a draw without an alpha just at the threshold
    probe, view = normal(2, 5, 12, 12, seed=9), RenderRequest(torch.tensor([0, 0]), orbit(2))

    def value():
        seen = made.render(view)
        return (torch.cat([seen.image, seen.alpha, seen.depth * seen.alpha], 1) * probe).sum()

    check_gradients(made, value, 2e-6)


def test_the_gradient_on_the_screen_is_that_of_a_shift():
    solid, camera = some(5), orbit(1)
    shift, probe = (
        torch.zeros(1, 5, 2, dtype=torch.float64, requires_grad=True),
        normal(1, 3, 16, 16, seed=4),
    )
    value = lambda by: (render_gaussians(solid, camera, 16, 16, by).color * probe).sum()  # noqa: E731
    (slope,) = torch.autograd.grad(value(shift), shift)
    for i in range(5):
        step = torch.zeros_like(shift.detach())
        step[0, i, 1] = 1e-6
        assert float(value(step) - value(-step)) / 2e-6 == pytest.approx(
            float(slope[0, i, 1]), abs=1e-6
        )


# Against a solid


def test_discs_on_a_sphere_are_the_sphere():
    """Silhouette, depth and normals of the sphere of radius .8, of 6,000 flat Gaussians on it."""
    count, radius, size = 6000, 0.8, 96
    k = torch.arange(count, dtype=torch.float64) + 0.5
    up, turn = 1 - 2 * k / count, math.pi * (1 + 5**0.5) * k
    axis = torch.stack([(1 - up**2).sqrt() * turn.cos(), up, (1 - up**2).sqrt() * turn.sin()], 1)
    half = axis + torch.tensor([0.0, 0.0, 1.0])  # the quaternion that turns z to the axis
    quaternion = torch.stack([half[:, 2], -half[:, 1], half[:, 0], torch.zeros(count)], 1)
    quaternion = torch.nn.functional.normalize(quaternion, dim=1)
    assert max_difference(quats_to_rotations(quaternion)[..., 2], axis) < 1e-9
    wide = 0.8 * radius * math.sqrt(4 * math.pi / count)
    scale = torch.tensor([wide, wide, 1e-4], dtype=torch.float64).expand(count, 3)
    solid = GaussianBatch(*(part[None] for part in (
        radius * axis, scale, quaternion, torch.full((count,), 0.95, dtype=torch.float64), 0.5 + axis / 2)))  # fmt: skip
    camera = orbit(2)[:1]
    seen = render_gaussians(solid, camera, size, size)
    rays = camera.directions(size, size)[0]
    along = -(rays @ camera.eye[0])
    inside = along**2 - DISTANCE**2 + radius**2
    distance = along - inside.clamp_min(0).sqrt()
    true = distance * (rays @ -camera.pose[0, :3, 2])
    missed_by = (DISTANCE**2 - along**2).sqrt() - radius
    pixel = DISTANCE / (size * FOCAL)
    assert (
        float(seen.alpha[0, 0][missed_by < 0].min()) > 0.95
    )  # the discs and the low-pass reach over the edge
    assert float(seen.alpha[0, 0][missed_by > 2.5 * pixel].max()) < 0.05
    core = inside > 0.3  # within 47 degrees of facing the camera
    assert (
        float((seen.depth[0, 0] - true)[core].abs().max()) < wide
    )  # a disc has one depth all over
    outward = torch.nn.functional.normalize(camera.eye[0] + distance[..., None] * rays, dim=-1)
    facing = (depth_to_normals(seen.depth, seen.alpha, camera)[0].permute(1, 2, 0) * outward).sum(-1)
    assert float(facing[core].min()) > 0.95
    assert max_difference(seen.color[0].permute(1, 2, 0)[core], 0.5 + outward[core] / 2) < 0.05


# Relocation


def test_shares_are_those_of_the_paper():
    """Eq. 9 as it is written, against the sum over C(N, k + 1)."""
    opacity, number = (
        torch.tensor([0.05, 0.5, 0.9, 0.99], dtype=torch.float64),
        torch.tensor([1, 2, 7, 40]),
    )
    new, factor = split_opacity_and_scale(opacity, number)
    for old, n, o, f in zip(
        opacity.tolist(), number.tolist(), new.tolist(), factor.tolist(), strict=True
    ):
        assert o == pytest.approx(1 - (1 - old) ** (1 / n), abs=1e-12)
        inner = lambda i: (
            math.comb(i - 1, k) * (-1) ** k * o ** (k + 1) / math.sqrt(k + 1) for k in range(i)
        )  # noqa: B023, E731
        total = math.fsum(term for i in range(1, n + 1) for term in inner(i))
        assert f == pytest.approx(old / total, rel=1e-6)
    assert (float(new[0]), float(factor[0])) == (pytest.approx(0.05), pytest.approx(1.0))


@pytest.mark.parametrize("number", [2, 3, 10])
@pytest.mark.parametrize("opacity", [0.2, 0.6, 0.95])
def test_sharing_keeps_the_middle_and_the_line(opacity, number):
    """As opaque in the middle, the same integral along a line; between, .11 of the opacity apart and .4 of what equal sizes are."""
    new, factor = split_opacity_and_scale(torch.tensor([opacity], dtype=torch.float64), torch.tensor([number]))
    x = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    before = opacity * (-(x**2) / 2).exp()
    after = 1 - (1 - new * (-((x / factor) ** 2) / 2).exp()) ** number
    assert float(after[12000]) == pytest.approx(opacity, abs=1e-9)
    assert float(after.sum()) == pytest.approx(float(before.sum()), rel=1e-6)
    unscaled = 1 - (1 - new * (-(x**2) / 2).exp()) ** number
    assert max_difference(before, after) < min(0.11 * opacity, 0.4 * max_difference(before, unscaled))


def relocated(
    spec: GaussianSplats, opacity: list[float]
) -> tuple[GaussianSplatParticles, torch.optim.Optimizer]:
    made = roughened(particles(spec, size=(48, 48)))
    made.params["opacities"][0].data.copy_((torch.tensor(opacity) / 0.99).logit())
    adam = torch.optim.Adam(made.param_groups())
    made.render(RenderRequest(torch.tensor([0]), front())).image.square().sum().backward()
    adam.step()
    made.params["opacities"][0].data.copy_((torch.tensor(opacity) / 0.99).logit())
    return made, adam


def test_relocation_keeps_the_picture_and_forgets_the_moments():
    spec = GaussianSplats(
        num_gaussians=30, init_color_std=1.0, relocation_noise=0.0, refine_every=1, init_radius=0.6, max_scale=5.0, bound=9.0
    )
    made, adam = relocated(spec, [0.003] * 10 + [0.5] * 20)
    view = RenderRequest(torch.tensor([0, 0]), orbit(2))
    before, old = (
        made.render(view).image.detach(),
        {name: made.params[name][0].detach().clone() for name in made.params},
    )
    made.after_step(0, 10, adam)
    after, new = (
        made.render(view).image.detach(),
        {name: made.params[name][0].detach() for name in made.params},
    )
    assert int(made.num_relocated[0]) == 10
    changed = (old["opacity"] != new["opacity"]).nonzero().squeeze(1)
    assert set(range(10)) < set(changed.tolist()) and len(changed) < 30
    for mean in new["mean"][:10]:  # each stands where a living one stands
        assert float((mean - old["mean"][10:]).norm(dim=1).min()) == 0
    assert max_difference(before, after) < 0.03 and float((before - after).abs().mean()) < 0.002
    for part in made.params.values():
        moments = adam.state[part[0]]["exp_avg_sq"]
        assert bool((moments[changed] == 0).all())
        stayed = [i for i in range(30) if i not in changed.tolist()]
        assert bool((moments[stayed] != 0).any())


def test_a_kick_spreads_the_newcomers_as_their_home_does():
    spec = GaussianSplats(num_gaussians=3000, relocation_noise=1.0, refine_every=1)
    made, adam = relocated(spec, [0.003] * 2999 + [0.5])
    old = made.params["means"][0][2999].detach().clone()
    made.after_step(0, 10, adam)
    mean, scale, turn = (made.params[name][0].detach() for name in ("means", "scales", "quats"))
    away = (
        (mean[:2999] - old)
        @ quats_to_rotations(torch.nn.functional.normalize(turn[2999], dim=0))
        / scale[2999].exp()
    )
    assert max_difference(away.std(0), torch.ones(3)) < 0.06 and float(away.mean(0).abs().max()) < 0.06


def test_the_dead_draw_by_weight_and_only_the_living():
    weight, dead = (
        torch.tensor([0.1, 0.3, 0.0, 0.5]).repeat(1, 1)[0],
        torch.tensor([True, False, False, False]),
    )
    weight, dead = (
        torch.cat([weight, torch.full((4000,), 0.001)]),
        torch.cat([dead, torch.ones(4000, dtype=torch.bool)]),
    )
    movers, onto = choose_relocations(weight, dead, rng(1))
    assert movers.tolist() == [0, *range(4, 4004)]
    assert float((onto == 1).double().mean()) == pytest.approx(0.3 / 0.8, abs=0.03) and set(
        onto.tolist()
    ) == {1, 3}
    for none in ((weight, torch.zeros_like(dead)), (weight, torch.ones_like(dead))):
        assert not len(choose_relocations(*none, rng(1))[0])


def test_only_tensors_of_their_shape_are_forgotten():
    p = torch.nn.Parameter(torch.ones(3, 2))
    sgd = torch.optim.SGD([p], momentum=0.9)
    p.sum().backward()
    sgd.step()
    reset_optimizer_state(sgd, [p], torch.tensor([1]))
    assert sgd.state[p]["momentum_buffer"].tolist() == [[1, 1], [0, 0], [1, 1]]


def test_the_pull_of_gradients_decides_where_to():
    made, adam = relocated(
        GaussianSplats(num_gaussians=4, refine_every=2, relocation_weight="gradient"), [0.003, 0.5, 0.5, 0.5]
    )
    made.render(
        RenderRequest(torch.tensor([0, 0]), orbit(2), rng())
    ).image.square().sum().backward()
    shift = made._screen_offset[0].grad.norm(dim=-1).sum(0)
    made.after_step(0, 10, adam)
    assert max_difference(made.screen_grad[0], shift) < 1e-9 and float(shift.max()) > 0 and made._screen_offset is None
    made.screen_grad[0].copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    made.after_step(1, 10, adam)
    assert int(made.num_relocated[0]) == 1 and float(made.screen_grad.abs().max()) == 0
    opacity = made.params["opacities"][0].tolist()
    assert opacity[0] == opacity[3]


def test_means_and_deviations_stay_within_bounds():
    made, adam = relocated(GaussianSplats(num_gaussians=20, refine_every=0, bound=0.3, max_scale=0.05), [0.5] * 20)
    made.after_step(0, 10, adam)
    assert made.params["means"][0].norm(dim=1).max().item() <= 0.3 + 1e-6
    assert made.params["scales"][0].exp().max().item() <= 0.05 + 1e-6


# Runs


SMALL = GaussianSplats(
    num_gaussians=25, refine_every=2, min_opacity=0.15, init_opacity=0.2, opacities_lr=0.3, init_color_std=1.0, refine_stop=1.0
)
NEAR = Orbit(per_particle=2, elevation_range=(-10.0, 60.0), view_prompts=("", "", "", ""))


def experiment(**options) -> Experiment:
    fields = {"prompts": ("red disc",), "model": "gaussians", "method": SDS(5.0), "representation": SMALL, "cameras": NEAR,
              "particles": 2, "steps": 8, "optimizer": Adam()}  # fmt: skip
    return Experiment(**(fields | options))


@pytest.mark.parametrize("towards", ["opacity", "gradient"])
def test_a_resumed_run_is_bit_identical(towards):
    e, prior = experiment(representation=replace(SMALL, relocation_weight=towards)), colored_shapes(12)
    whole = Run(e, prior)
    for _ in range(5):
        whole.advance()
    kept = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    for _ in range(3):
        whole.advance()
    again = Run(e, prior)
    again.load(kept, 5)
    for _ in range(3):
        again.advance()
    a, b = whole.tensors(), again.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert int(whole.representation.num_relocated.min()) > 0, (
        "nothing was relocated: the test says less than it should"
    )


def test_a_particle_that_is_not_drawn_does_not_move():
    run = Run(experiment(batch_size=1, steps=12), colored_shapes(12))
    still = 0
    for _ in range(12):
        before = [[part[i].clone() for part in run.representation.params.values()] for i in range(2)]
        drawn = set(run.advance().inputs.particle.tolist())
        assert len(drawn) == 1
        for i in range(2):
            after = [part[i] for part in run.representation.params.values()]
            same = [torch.equal(a, b) for a, b in zip(before[i], after, strict=True)]
            assert all(same) if i not in drawn else not all(same)
            still += all(same)
    assert still == 12


def test_a_row_does_not_depend_on_its_neighbours():
    made = roughened(particles(GaussianSplats(num_gaussians=30, init_color_std=1.0), 3)).double()
    who, camera = torch.tensor([2, 0, 2, 1]), orbit(4)
    together = made.render(RenderRequest(who, camera))
    for i in range(4):
        alone = made.render(RenderRequest(who[i : i + 1], camera[i : i + 1]))
        for name in ("image", "alpha", "depth", "normal"):
            assert max_difference(getattr(together, name)[i : i + 1], getattr(alone, name)) < 1e-12


def test_regularisers_are_weighed_means_of_the_particles_in_view():
    made = roughened(particles(GaussianSplats(num_gaussians=30, opacity_reg=2.0, scale_reg=3.0), 3))
    view = RenderRequest(torch.tensor([0, 2, 2]), orbit(3))
    terms = made.regularize(made.render(view), 0.5)
    kept = [made.asset(i) for i in (0, 2)]
    assert terms["opacity"].item() == pytest.approx(
        2 * sum(each.opacities.mean().item() for each in kept), rel=1e-5
    )
    assert float(terms["scale"]) == pytest.approx(
        3 * sum(float(each.scales.mean()) for each in kept), rel=1e-5
    )
    assert not particles(GaussianSplats(num_gaussians=5)).regularize(made.render(view), 0.5)


@pytest.mark.parametrize(("options", "says"), [
    ({"num_gaussians": 0}, "count must be"), ({"init_radius": 0.0}, "positive"), ({"init_opacity": 1.0}, "init_opacity must be in"),
    ({"min_opacity": 0.0}, "min_opacity must be in"), ({"refine_every": -1}, "not be negative"), ({"refine_stop": 1.5}, "until is a share"),
    ({"means_lr": 0.0}, "every rate"), ({"images": ("a.png",)}, "begin with no picture"),
])  # fmt: skip
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        GaussianSplats(**options)


def test_without_a_camera_nothing_is_seen():
    with pytest.raises(ValueError, match="--cameras orbit"):
        particles(GaussianSplats(num_gaussians=5)).render(RenderRequest(torch.tensor([0])))


# What another run made


def ball(points: torch.Tensor, radius: float = 0.6) -> torch.Tensor:
    """Dense within a radius, and empty beyond within .02."""
    return 200 * ((radius - points.norm(dim=1)) / 0.002).sigmoid()


def test_points_lie_on_the_surface_of_a_density_all_over_it():
    points = sample_surface_points(ball, 800, 1.3, rng(2))
    away = points.norm(dim=1) - 0.6
    apart = 1.3 * (12.6 / 800) ** 0.5  # what is dense that near to what is empty counts as surface
    assert float(away.max()) < 0.02 and float(away.min()) > -1.01 * apart
    assert (
        float(points.mean(0).norm()) < 0.06
        and max_difference((points.T @ points) / len(points) * 3 / 0.52**2, torch.eye(3)) < 0.2
    )
    with pytest.raises(ValueError, match="initialize from another run"):
        sample_surface_points(lambda points: torch.zeros(len(points)), 50, 1.3, rng())


def test_the_distance_of_neighbours_is_that_of_three():
    line = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0], [6.0, 0, 0], [20.0, 0, 0]])
    assert mean_neighbor_distance(line).tolist() == pytest.approx(
        [10 / 3, 8 / 3, 8 / 3, 14 / 3, 50 / 3]
    )
    with pytest.raises(ValueError, match="2 or more Gaussians"):
        mean_neighbor_distance(line[:1])


def folder_of(tmp_path, e: Experiment, prior) -> Run:
    run = Run(e, prior)
    run.advance()
    (tmp_path / "run.yaml").write_text(config.to_yaml(e))
    write_checkpoint(tmp_path / "checkpoint.safetensors", run.tensors(), {"step": 1})
    return run


def test_splats_begin_with_splats_as_they_are(tmp_path):
    prior = colored_shapes(12)
    first = folder_of(tmp_path, experiment(particles=1), prior)
    second = Run(experiment(representation=replace(SMALL, init_from=tmp_path)), prior)
    for name, part in second.representation.params.items():
        assert all(torch.equal(each, first.representation.params[name][0]) for each in part)
    with pytest.raises(ValueError, match=r"has 25 Gaussians, not 26"):
        build_representation(replace(SMALL, init_from=tmp_path, num_gaussians=26), prior, 1, 0)


def test_splats_begin_on_the_surface_of_a_field(tmp_path):
    """A field's silhouette and colours, seen again in the splats that begin with it."""
    prior = colored_shapes(48)
    field = NeRF(
        encoding=DenseGridEncoding(resolutions=(8,)),
        density_init=Magic3DDensityInit(scale=40.0, radius=0.6),
        occupancy_resolution=8,
    )
    run = folder_of(tmp_path, experiment(representation=field, particles=1), prior)
    splats = build_representation(GaussianSplats(num_gaussians=1500, init_from=tmp_path), prior, 1, 0)
    view = RenderRequest(torch.tensor([0]), front(1).to("cpu"))
    view = RenderRequest(view.particle, Camera(view.camera.pose.float(), view.camera.fov.float()))
    with torch.no_grad():
        a, b = run.representation.render(view), splats.render(view)
    assert float(((a.alpha > 0.5) == (b.alpha > 0.5)).float().mean()) > 0.9
    inside = (a.alpha > 0.9) & (b.alpha > 0.9)
    assert float(inside.float().mean()) > 0.05
    assert float((a.image - b.image).abs()[inside.expand_as(a.image)].mean()) < 0.05
    assert "initialized from" in splats.init_message


def test_what_is_flat_is_nothing_to_begin_with(tmp_path):
    prior = colored_shapes(12)
    folder_of(tmp_path, experiment(representation=Pixels(), cameras=None, particles=1), prior)
    with pytest.raises(ValueError, match="neither density nor colours"):
        build_representation(replace(SMALL, init_from=tmp_path), prior, 1, 0)


# Files


def test_a_ply_read_back_is_what_was_written(tmp_path):
    solid = roughened(particles(GaussianSplats(num_gaussians=50, init_color_std=1.0))).asset(0)
    write_gaussian_ply(tmp_path / "a.ply", solid)
    again = read_gaussian_ply(tmp_path / "a.ply")
    for name in ("means", "scales", "opacities", "colors"):
        assert max_difference(getattr(again, name), getattr(solid, name)) < 1e-5
    assert max_difference(quats_to_rotations(again.quats), quats_to_rotations(solid.quats)) < 1e-5


def test_a_ply_is_laid_out_as_viewers_expect(tmp_path):
    """One Gaussian by hand: SuperSplat and its kin turn by half a turn around z, and then it is where it was."""
    solid = one((0.1, 0.2, 0.3), (0.01, 0.02, 0.03), 0.7, (0.9, 0.5, 0.1), (0.8, 0.6, 0, 0))
    write_gaussian_ply(
        tmp_path / "a.ply",
        type(particles(GaussianSplats(num_gaussians=1)).asset(0))(
            *(part[0] for part in vars(solid).values())
        ),
    )
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    assert head.decode().split("\n")[:3] == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 1",
    ]
    assert [line.split()[2] for line in head.decode().split("\n")[3:-1]] == list(PLY_PROPERTIES)
    row = dict(
        zip(PLY_PROPERTIES, torch.frombuffer(bytearray(body), dtype=torch.float32).tolist(), strict=True)
    )
    near = lambda *values: pytest.approx(values, abs=1e-6)  # noqa: E731
    assert (row["x"], row["y"], row["z"]) == near(-0.1, -0.2, 0.3)
    assert (row["f_dc_0"], row["f_dc_1"], row["f_dc_2"]) == near(0.4 / SH_C0, 0, -0.4 / SH_C0)
    assert (row["opacity"], row["scale_2"]) == near(math.log(0.7 / 0.3), math.log(0.03))
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    written = quats_to_rotations(torch.tensor([row[f"rot_{i}"] for i in range(4)]))
    assert max_difference(half @ written, quats_to_rotations(solid.quats[0, 0])) < 1e-6
    trimesh = pytest.importorskip("trimesh")
    assert (
        max_difference(
            torch.from_numpy(trimesh.load(tmp_path / "a.ply").vertices),
            torch.tensor([[-0.1, -0.2, 0.3]]),
        )
        < 1e-6
    )


def test_a_ply_of_others_is_read(tmp_path):
    """Other properties between, other elements after, doubles."""
    names = [
        ("double" if name == "x" else "float", name) for name in PLY_PROPERTIES if not name.startswith("n")
    ] + [("uchar", "label")]
    head = ["ply", "format binary_little_endian 1.0", "comment made elsewhere", "element vertex 1",
            *(f"property {kind} {name}" for kind, name in names), "element face 0", "property list uchar int indices",
            "end_header\n"]  # fmt: skip
    values = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    (tmp_path / "a.ply").write_bytes("\n".join(head).encode() + struct.pack("<d13fB", *values, 7))
    made = read_gaussian_ply(tmp_path / "a.ply")
    assert (made.means.tolist(), made.scales.tolist(), made.opacities.tolist()) == (
        [[-1, -2, 3]],
        [[1, 1, 1]],
        [0.5],
    )
    assert made.quats.abs().tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(("content", "says"), [
    (b"solid", "not a .ply file"), (b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", "only binary little-endian"),
    (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n", "lack y, z"),
    (b"ply\nformat binary_little_endian 1.0\nelement face 1\nend_header\n", "first element must be vertex"),
    (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n", "unsupported property"),
])  # fmt: skip
def test_what_is_no_ply_of_gaussians_is_told(tmp_path, content, says):
    (tmp_path / "a.ply").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_gaussian_ply(tmp_path / "a.ply")


def test_a_ply_cut_short_is_told(tmp_path):
    write_gaussian_ply(tmp_path / "a.ply", particles(GaussianSplats(num_gaussians=5)).asset(0))
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.ply").read_bytes()[:-3])
    with pytest.raises(ValueError, match="truncated: 337 of 340 bytes"):
        read_gaussian_ply(tmp_path / "a.ply")


def test_a_run_leaves_a_ply_for_each_particle(tmp_path):
    made = roughened(particles(GaussianSplats(num_gaussians=5), 2))
    made.save(tmp_path, ["01-01", "01-02"])
    assert max_difference(read_gaussian_ply(tmp_path / "01-02.ply").means, made.params["means"][1]) < 1e-6


# Where gsplat is


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gsplat_agrees_with_plain_torch():
    pytest.importorskip("gsplat")
    made = roughened(particles(GaussianSplats(num_gaussians=800, init_color_std=1.0), 2), 0.2).cuda()
    camera, both, probe = orbit(3).to("cuda"), [], normal(3, 5, 48, 80, dtype=torch.float32).cuda()
    camera = Camera(camera.pose.float(), camera.fov.float())
    solid = made.gaussians(torch.tensor([0, 1, 1]))
    for draw in (composite_torch, composite_gsplat):
        shown = torch.cat(draw(project_gaussians(solid, camera, 48, 80), 48, 80), 1)
        both.append(
            (
                shown.detach(),
                torch.autograd.grad(
                    (shown * probe).sum(), list(made.parameters()), retain_graph=True
                ),
            )
        )
    assert max_difference(both[0][0].cpu(), both[1][0].cpu()) < 5e-3
    for a, b in zip(both[0][1], both[1][1], strict=True):
        assert float((a - b).norm()) < 0.02 * float(a.norm()) + 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_shows_what_the_cpu_shows():
    made = roughened(particles(GaussianSplats(num_gaussians=300, init_color_std=1.0), 2), 0.2)
    view = RenderRequest(
        torch.tensor([0, 1, 1]), Camera(orbit(3).pose.float(), orbit(3).fov.float())
    )
    here = made.render(view)
    there = made.cuda().render(view)
    for name in ("image", "alpha"):
        assert max_difference(getattr(here, name), getattr(there, name).cpu()) < 5e-3
    run = Run(experiment(optimizer=SGD()), colored_shapes(12))
    assert run.representation is not None
