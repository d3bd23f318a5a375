"""Meshes: marching tetrahedra, rasterisation and outlines against closed forms; the representation; what a run hands on."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny_pipeline import normal, rng, max_difference
from torch import Tensor

from limbeck.config import yaml as config
from limbeck.graphics.cameras.camera import Camera, look_at, orbit_cameras, turntable_cameras
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.background import SolidBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import Magic3DDensityInit
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid, ellipsoid_sdf, kuhn_tetrahedra, level_set_to_sdf, silhouette_iso_level, triangle_table
from limbeck.graphics.geometry.mesh import MeshTopology, concat_topologies, connected_components, face_normals, laplacian_smoothing, mesh_volume, normal_consistency, remove_small_components
from limbeck.graphics.rendering.rasterizer import Fragments, ProjectedMesh, antialias, project_homogeneous, rasterize, silhouette_edges
from limbeck.methods.sds import SDS
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import match_particles
from limbeck.representations.dmtet import DMTet, DMTetParticles
from limbeck.representations.latents import Latents
from limbeck.representations.nerf import NeRF
from limbeck.system.checkpoint import write_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run
from limbeck.training.warm_start import build_representation, load_representation

CUBE = torch.tensor([
    [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
    [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
])  # fmt: skip
QUAD = torch.tensor([[0, 1, 2], [0, 2, 3]])


def f64(camera: Camera) -> Camera:
    """The same camera, which looks at the origin, upright to the last bit of a double."""
    eye = camera.eye.double()
    return look_at(eye, torch.zeros_like(eye), camera.fov.double())


def turned() -> Tensor:
    """A rotation about no axis in particular."""
    return torch.linalg.qr(normal(3, 3, seed=4))[0]


def cube(half: float, turn: Tensor) -> Tensor:
    corners = torch.cartesian_prod(*[torch.tensor([-half, half], dtype=torch.float64)] * 3)
    return corners @ turn.T


def shown(camera: Camera, vertices: Tensor, faces: Tensor, height: int, width: int) -> Fragments:
    """One mesh before every camera of a batch."""
    mesh = MeshTopology(faces, len(vertices))
    points = project_homogeneous(camera, vertices.expand(len(camera), -1, -1), height, width).flatten(0, 1)
    image = torch.arange(len(camera)).repeat_interleave(len(faces))
    return rasterize(
        ProjectedMesh(points, concat_topologies([mesh] * len(camera)), image, len(camera), height, width)
    )


def coverage(seen: Fragments) -> Tensor:
    """Antialiased opacity, [b, h, w]."""
    return antialias(seen, seen.to_image(torch.ones_like(seen.depth[:, None])))[:, 0]


def ball(cells: int, radius: float = 0.7) -> tuple[Tensor, MeshTopology]:
    grid = TetGrid(cells, 1.0)
    points = grid.vertices().double()
    return grid.extract_surface(points.norm(dim=1) - radius, points)


# Marching tetrahedra


def test_kuhns_tetrahedra_fill_a_cube_and_are_positively_oriented():
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    a, b, c, d = corners[kuhn_tetrahedra()].unbind(1)
    volumes = ((b - a) * torch.linalg.cross(c - a, d - a)).sum(1) / 6
    assert max_difference(volumes, torch.full((6,), 1 / 6)) < 1e-7


def test_each_of_the_sixteen_cases_has_the_triangles_that_part_inside_from_outside():
    table = triangle_table()
    inside = torch.tensor([[case >> i & 1 for i in range(4)] for case in range(16)])
    assert (table[..., 0] >= 0).sum(1).tolist() == [
        [0, 1, 2, 1, 0][n] for n in inside.sum(1).tolist()
    ]
    ends = torch.tensor([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    for case in range(16):
        used = ends[table[case][table[case] >= 0].unique()]
        cut = inside[case][ends].sum(1) == 1
        assert sorted(used.tolist()) == ends[cut].tolist()


def closed(mesh: MeshTopology) -> bool:
    """Every edge has two faces, which run through it in opposite directions."""
    faces = torch.bincount(mesh.face_edges.flatten())
    directions = torch.zeros(len(mesh.edges), dtype=torch.long).index_add(
        0, mesh.face_edges.flatten(), mesh.edge_orientations.flatten()
    )
    return bool((faces == 2).all() and (directions == 0).all())


def euler(mesh: MeshTopology) -> int:
    return mesh.num_vertices - len(mesh.edges) + len(mesh.faces)


@pytest.mark.parametrize("cells", [5, 12, 31])
def test_a_sphere_is_closed_of_genus_0_and_looks_outwards(cells):
    vertices, mesh = ball(cells)
    assert closed(mesh) and euler(mesh) == 2
    assert bool(((face_normals(vertices, mesh) * vertices[mesh.faces].mean(1)).sum(1) >= 0).all())


def test_a_torus_has_a_hole():
    grid = TetGrid(24, 1.0)
    x, y, z = grid.vertices().unbind(1)
    _, mesh = grid.extract_surface(((x**2 + z**2).sqrt() - 0.6).square() + y**2 - 0.25**2, grid.vertices())
    assert closed(mesh) and euler(mesh) == 0


def test_noise_gives_a_closed_surface_too_however_the_grid_is_deformed():
    grid = TetGrid(9, 1.0)
    sdf = torch.where(grid.boundary_mask(), 1.0, normal(1000, seed=1).float())
    vertices, mesh = grid.extract_surface(sdf, grid.deform(3 * normal(1000, 3, seed=2).float()))
    assert closed(mesh) and len(mesh.faces) > 1000 and len(vertices) == mesh.num_vertices


def test_radius_area_and_volume_of_a_sphere_are_of_second_order():
    errors = []
    for cells in (12, 24, 48):
        vertices, mesh = ball(cells)
        area = face_normals(vertices, mesh).norm(dim=1).sum() / 2
        errors.append([
            (vertices.norm(dim=1) - 0.7).abs().max().item(), abs(area.item() - 4 * math.pi * 0.49),
            abs(mesh_volume(vertices, mesh).item() - 4 / 3 * math.pi * 0.343),
        ])  # fmt: skip
    for coarse, fine in pairwise(errors):
        assert all(3.2 < a / b < 4.8 for a, b in zip(coarse, fine, strict=True)), errors
    assert errors[-1][0] < 3 * (2 / 48) ** 2 / (
        8 * 0.7
    )  # the height of an arc over a cube's diagonal


def test_vertices_have_the_gradients_of_finite_differences_in_distances_and_places():
    grid = TetGrid(4, 1.0)
    points = grid.vertices().double()
    sdf = points.norm(dim=1) - 0.6
    raw = 0.3 * normal(125, 3, seed=3)
    weight = normal(*grid.extract_surface(sdf, grid.deform(raw))[0].shape, seed=5)
    value = lambda s, r: (grid.extract_surface(s, grid.deform(r))[0] * weight).sum()  # noqa: E731
    assert torch.autograd.gradcheck(value, (sdf.requires_grad_(), raw.requires_grad_()))


def test_a_vertex_of_the_grid_moves_by_at_most_half_a_cell():
    grid = TetGrid(6, 1.5)
    assert max_difference(grid.deform(torch.full((343, 3), 1e3)), grid.vertices() + 0.25) < 1e-6


def test_only_cut_cubes_are_split():
    """A fine grid costs its surface: four times the cubes for twice the cells."""
    counts = []
    for cells in (16, 32, 64):
        grid = TetGrid(cells, 1.0)
        counts.append(len(grid._crossed_tetrahedra(grid.vertices().norm(dim=1) < 0.7)))
    assert 3.7 < counts[1] / counts[0] < 4.3 and 3.7 < counts[2] / counts[1] < 4.3


def test_first_order_distances_are_exact_for_a_sphere_and_a_linear_slope():
    grid = TetGrid(20, 1.0)
    points = grid.vertices()
    assert max_difference(ellipsoid_sdf(points, (0.6, 0.6, 0.6)), points.norm(dim=1) - 0.6) < 1e-6
    flat = points @ torch.tensor([0.6, 0.0, 0.8]) - 0.05
    assert max_difference(level_set_to_sdf(7 * flat, grid), flat.clamp(-0.2, 0.2)) < 1e-5


def test_the_level_of_a_fog_is_where_it_is_half_opaque_from_the_sides():
    """D exp(-r^2 / 2 s^2) along a line at distance b is D s (2 pi)^.5 exp(-b^2 / 2 s^2): ln 2 at the level ln 2 / (s (2 pi)^.5)."""
    grid, s = TetGrid(60, 1.5), 0.35
    density = 8 * (-grid.vertices().square().sum(1) / (2 * s**2)).exp()
    assert abs(silhouette_iso_level(density, grid) / (math.log(2) / (s * math.sqrt(2 * math.pi))) - 1) < 0.03
    assert (
        silhouette_iso_level(torch.where(density > 1, 50.0, 0.0), grid) == 25.0
    )  # of something sharp the middle
    with pytest.raises(ValueError, match="nowhere half opaque"):
        silhouette_iso_level(density / 50, grid)


# Rasterisation


def test_homogeneous_points_are_projected_ones_before_the_division():
    camera = f64(turntable_cameras(3, 20, 3.0, 50))
    points = normal(10, 3, seed=1)
    own = project_homogeneous(camera, points.expand(3, -1, -1), 40, 60)
    assert (
        max_difference(
            torch.cat([own[..., :2] / own[..., 2:], own[..., 2:]], -1),
            camera.project(points, 40, 60),
        )
        < 1e-12
    )


def test_a_rotated_cube_has_the_depth_and_coverage_of_rays_against_its_planes():
    camera, turn, height, width = f64(turntable_cameras(3, 25, 3.5, 40)), turned(), 60, 80
    seen = shown(camera, cube(0.55, turn), CUBE, height, width)
    eye, ahead = (
        camera.eye @ turn,
        camera.directions(height, width) @ turn,
    )  # in the space of the cube: slabs
    ahead = torch.where(ahead.abs() < 1e-12, 1e-12, ahead)
    one, two = ((side - eye[:, None, None]) / ahead for side in (-0.55, 0.55))
    near, far = one.minimum(two).amax(-1), one.maximum(two).amin(-1)
    assert torch.equal(seen.to_image(torch.ones_like(seen.depth[:, None]))[:, 0] > 0, near < far)
    forward = -camera.pose[:, :3, 2]
    along = (camera.directions(height, width) * forward[:, None, None]).sum(-1) * near
    assert (
        max_difference(seen.to_image(seen.depth[:, None])[:, 0], torch.where(near < far, along, 0.0)) < 1e-5
    )  # middles of pixels are floats


def test_a_cubes_outline_encloses_half_the_area_of_its_projected_faces():
    """A ray meets a convex thing twice, so its silhouette is half of what its faces cover. Antialiased, the area is that to a
    hundredth of the circumference; the sharp picture is not."""
    camera, turn = f64(turntable_cameras(6, 25, 3.5, 40)), turned()
    corners = cube(0.55, turn)
    flat = camera.project(corners, 64, 64)[:, CUBE][..., :2]
    ab, ac = flat[:, :, 1] - flat[:, :, 0], flat[:, :, 2] - flat[:, :, 0]
    exact = (ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]).abs().sum(1) / 4
    seen = shown(camera, corners, CUBE, 64, 64)
    assert bool(((coverage(seen).sum((1, 2)) - exact).abs() < 0.01 * 4 * exact.sqrt()).all())
    assert bool(
        (
            (seen.to_image(torch.ones_like(seen.depth[:, None]))[:, 0].sum((1, 2)) - exact).abs() > 1
        ).any()
    )


def test_attributes_are_interpolated_in_perspective_exactly_on_a_tilted_plane():
    camera = f64(orbit_cameras(torch.tensor([0.3]), torch.tensor([0.9]), 2.0, 60))
    plane = torch.tensor([[-9.0, 0, -9], [-9, 0, 9], [9, 0, 9], [9, 0, -9]], dtype=torch.float64)
    seen = shown(camera, plane, QUAD, 32, 48)
    ahead = camera.directions(32, 48).flatten(0, 2)[seen.pixel]
    hit = camera.eye - ahead * (camera.eye[:, 1:2] / ahead[:, 1:2])
    assert (
        len(seen.pixel) == 32 * 48 and max_difference(seen.interpolate(plane), hit) < 1e-6
    )  # middles of pixels are floats
    assert (
        max_difference(seen.interpolate(plane[:, :1] * 2 + plane[:, 2:] - 1), hit[:, :1] * 2 + hit[:, 2:] - 1) < 1e-6
    )


def test_a_floor_that_passes_under_the_camera_is_cut_at_the_near_plane():
    """Two of its corners lie behind the eye. Below the horizon every pixel shows it, at the depth of the ray; above none does."""
    eye = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    camera = look_at(
        eye,
        torch.tensor([[0.0, 1.0, -5.0]], dtype=torch.float64),
        torch.tensor([1.2], dtype=torch.float64),
    )
    floor = torch.tensor(
        [[-5e3, 0, -5e3], [-5e3, 0, 5e3], [5e3, 0, 5e3], [5e3, 0, -5e3]], dtype=torch.float64
    )
    seen = shown(camera, floor, QUAD, 20, 20)
    rows = torch.arange(10, 20, dtype=torch.float64)
    depth = 1 / ((rows + 0.5 - 10) / 10 * math.tan(0.6))
    assert seen.pixel.tolist() == list(range(200, 400))
    assert max_difference(seen.depth.view(10, 20), depth[:, None].expand(10, 20)) < 1e-9
    assert not len(
        shown(
            camera, floor * torch.tensor([1, 1, 0.0]) + torch.tensor([0, 0, 3.0]), QUAD, 20, 20
        ).pixel
    )


def test_faces_that_share_an_edge_leave_no_crack_and_the_nearer_one_wins():
    vertices, mesh = ball(20)
    seen = shown(turntable_cameras(2, 15, 3.0, 40), vertices.float(), mesh.faces, 200, 200)
    there = seen.to_image(torch.ones_like(seen.depth[:, None]))[:, 0]
    first, last = there.argmax(-1), 200 - there.flip(-1).argmax(-1)
    assert torch.equal(
        there.sum(-1).long(), torch.where(there.any(-1), last - first, 0)
    )  # rows without gaps
    face = seen.face % len(mesh.faces)
    towards = (
        turntable_cameras(2, 15, 3.0, 40).eye[seen.pixel // 40_000]
        - vertices[mesh.faces].mean(1)[face].float()
    )
    assert (face_normals(vertices, mesh)[face] * towards).sum(1).min() > -1e-6


def test_a_picture_of_nothing_is_empty():
    away = torch.tensor([[0.0, 0, 9], [1, 0, 9], [0, 1, 9]])
    seen = shown(turntable_cameras(1, 0, 3.0, 40), away, torch.tensor([[0, 1, 2]]), 8, 8)
    assert not len(seen.pixel) and coverage(seen).eq(0).all()


# Outlines


def facing(
    left: float, top: float, right: float, bottom: float, depth: float = 1.0, side: int = 16
) -> tuple[Camera, Tensor]:
    """A camera and a rectangle parallel to its picture, whose edges lie at these columns and rows."""
    ahead = torch.tensor([[0.0, 0, -1]], dtype=torch.float64)
    camera = look_at(
        torch.zeros_like(ahead), ahead, torch.tensor([math.pi / 2], dtype=torch.float64)
    )
    x, y = (
        (torch.tensor(v, dtype=torch.float64) * 2 / side - 1) * depth
        for v in ([left, right], [top, bottom])
    )
    corners = [(x[0], -y[0]), (x[0], -y[1]), (x[1], -y[1]), (x[1], -y[0])]
    return camera, torch.stack([torch.stack([a, b, a * 0 - depth]) for a, b in corners])


@pytest.mark.parametrize("left", [4.0, 4.2, 4.5, 4.9])
@pytest.mark.parametrize("right", [10.1, 10.5, 10.8])
def test_a_row_of_a_rectangle_covers_its_pixels_exactly(left, right):
    camera, corners = facing(left, 3.3, right, 12.6)
    alpha = coverage(shown(camera, corners, QUAD, 16, 16))[0]
    pixel = torch.arange(16, dtype=torch.float64)
    exact = ((pixel + 1).clamp(max=right) - pixel.clamp(min=left)).clamp(0, 1)
    assert max_difference(alpha[5], exact) < 1e-12
    down = ((pixel + 1).clamp(max=12.6) - pixel.clamp(min=3.3)).clamp(0, 1)
    assert max_difference(alpha[:, 7], down) < 1e-12


def test_edges_inside_a_mesh_and_behind_it_are_not_blended():
    camera, corners = facing(2, 2, 14, 14)
    hidden, _ = facing(4.3, 4.3, 9.7, 9.7, depth=2.0)[1], None
    faces = torch.cat([QUAD, QUAD + 4])
    seen = shown(camera, torch.cat([corners, hidden]), faces, 16, 16)
    colour = torch.tensor([[1.0, 0, 0]] * 4 + [[0, 1.0, 0]] * 4, dtype=torch.float64)
    picture = antialias(seen, seen.to_image(seen.interpolate(colour)))
    assert len(silhouette_edges(seen.projected)[0]) == 8
    assert (
        max_difference(picture[0, 0, 2:14, 2:14], torch.ones(12, 12)) < 1e-12
        and picture[:, 1].abs().max() < 1e-12
    )
    before = shown(
        camera, torch.cat([corners * 3, hidden]), faces, 16, 16
    )  # now the small one is nearer
    picture = antialias(before, before.to_image(before.interpolate(colour)))
    assert (
        abs(picture[0, 1, 7, 4].item() - 0.7) < 1e-12
        and abs(picture[0, 0, 7, 4].item() - 0.3) < 1e-12
    )


def disc(radius: float, distance: float, fov: float, side: int) -> float:
    """Area in pixels of a sphere seen along the axis: a circle of radius f r / (d^2 - r^2)^.5."""
    focal = side / 2 / math.tan(math.radians(fov) / 2)
    return math.pi * (focal * radius) ** 2 / (distance**2 - radius**2)


@pytest.mark.parametrize("cells", [12, 48])
def test_a_ball_covers_its_disc_whether_its_faces_are_larger_or_smaller_than_pixels(cells):
    vertices, mesh = ball(cells)
    vertices = vertices / vertices.norm(dim=1, keepdim=True) * 0.7
    inscribed = {12: 0.98, 48: 0.998}[cells]  # of a polyhedron
    area = coverage(
        shown(f64(turntable_cameras(4, 15, 3.0, 40)), vertices, mesh.faces, 32, 32)
    ).sum((1, 2)) / disc(0.7, 3.0, 40, 32)
    assert area.min() > inscribed - 0.004 and area.max() < 1.002


def test_the_gradient_of_an_outline_is_the_growth_of_its_area():
    """d(area)/d(scale) by autograd, by finite differences of the pictures, and in closed form."""
    vertices, mesh = ball(24)
    vertices = vertices / vertices.norm(dim=1, keepdim=True) * 0.7
    camera = f64(turntable_cameras(4, 15, 3.0, 40))
    area = lambda scale: coverage(shown(camera, scale * vertices, mesh.faces, 64, 64)).sum() / 4  # noqa: E731
    scale, e = torch.ones((), dtype=torch.float64, requires_grad=True), 1e-6
    (slope,) = torch.autograd.grad(area(scale), scale)
    assert abs((area(1 + e) - area(1 - e)).item() / (2 * e) / slope.item() - 1) < 1e-6
    exact = (disc(0.7 + 1e-5, 3.0, 40, 64) - disc(0.7 - 1e-5, 3.0, 40, 64)) / 2e-5 * 0.7
    assert abs(slope.item() / exact - 1) < 0.01


def test_every_vertex_of_a_tilted_outline_has_the_gradient_of_finite_differences():
    camera, corners = facing(3.37, 2.81, 11.23, 12.64)
    corners = (corners + 0.13 * normal(4, 3, seed=3)).requires_grad_()
    weight = normal(1, 16, 16, seed=8)
    value = lambda points: (coverage(shown(camera, points, QUAD, 16, 16)) * weight).sum()  # noqa: E731
    assert torch.autograd.gradcheck(value, (corners,), eps=1e-7, atol=1e-5)


# Smoothness


def test_smoothness_terms_are_zero_on_a_plane_and_known_on_a_cube():
    line = torch.arange(4.0)
    points = torch.cartesian_prod(line, line, torch.zeros(1))
    quads = [
        (4 * i + j, 4 * (i + 1) + j, 4 * (i + 1) + j + 1, 4 * i + j + 1)
        for i in range(3)
        for j in range(3)
    ]
    flat = MeshTopology(torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]), 16)
    assert normal_consistency(points, flat).item() < 1e-6
    corners = cube(1.0, torch.eye(3, dtype=torch.float64))
    box = MeshTopology(CUBE, 8)
    assert closed(box) and abs(mesh_volume(corners, box).item() - 8) < 1e-12
    assert abs(normal_consistency(corners, box).item() - 12 / 18) < 1e-12  # 12 right angles among 18 edges
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    eight = MeshTopology(
        torch.tensor(
            [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
        ),
        6,
    )
    assert (
        closed(eight) and abs(laplacian_smoothing(octahedron, eight).item() - 1) < 1e-9
    )  # the middle of four neighbours is the origin


def test_pieces_are_told_apart_and_specks_left_out():
    grid = TetGrid(24, 1.0)
    points = grid.vertices()
    large, small = (
        (points - torch.tensor(place)).norm(dim=1) - radius
        for place, radius in (((-0.3, 0, 0), 0.5), ((0.8, 0.4, 0), 0.1))
    )
    vertices, mesh = grid.extract_surface(large.minimum(small), points)
    kinds = connected_components(mesh)
    assert kinds.unique().numel() == 2
    assert torch.equal(kinds == kinds[vertices[:, 0].argmax()], vertices[:, 0] > 0.5)
    kept, rest = remove_small_components(vertices, mesh, 0.1)
    assert closed(rest) and euler(rest) == 2 and rest.num_vertices == len(kept) and kept[:, 0].max() < 0.5
    assert len(remove_small_components(vertices, mesh, 0.0)[1].faces) == len(mesh.faces)


# The representation

COARSE = DMTet(
    grid_resolution=8,
    encoding=DenseGridEncoding(resolutions=(4, 8)),
    decoder=MLPDecoder(hidden_dim=8),
    laplacian_weight=1.0,
    normal_consistency_weight=1.0,
    background=SolidBackground(color=(0.2, 0.4, 0.6)),
)


def shapes():
    return colored_shapes(12)


def views(*particles: int, seed: int | None = None) -> RenderRequest:
    return RenderRequest(
        torch.tensor(particles),
        turntable_cameras(len(particles), 15, 3.6, 40),
        None if seed is None else rng(seed),
    )


def test_it_begins_as_a_grey_ellipsoid_before_its_background_in_all_shadings():
    spec = replace(COARSE, grid_resolution=16, size=(0, 0), init_radii=(0.4, 0.8, 0.6))
    for shading in ("texture", "lit", "clay", "normals", "facing"):
        made = replace(spec, shading=shading).build(colored_shapes(64), 1, 0)
        out = made.render(views(0, 0, 0, 0))
        assert (
            out.image.shape == (4, 3, 64, 64)
            and max_difference(out.image[0, :, 0, 0], torch.tensor([0.2, 0.4, 0.6])) < 1e-6
        )
        middle = out.image[0, :, 32, 32]
        if shading == "facing":
            assert (
                middle[2] > 0.98 and out.image[0, 0, 32, 40] > 0.6 > 0.4 > out.image[0, 0, 32, 24]
            )  # x grows to the right
        elif shading == "normals":
            assert middle[2] > 0.95  # the front of a thing looks along z
        elif shading != "clay":
            assert middle.min() > 0.35 and middle.max() < 0.65
        wide = out.alpha.sum((1, 2, 3))
        assert wide[1] / wide[0] > 1.3  # from the side 0.6 : 0.8, from before 0.4 : 0.8
        there = out.alpha[:, 0] == 1
        assert max_difference(out.normal.norm(dim=1)[there], torch.ones(int(there.sum()))) < 1e-5
        assert abs(out.depth[0, 0, 32, 32].item() - (3.6 - 0.6)) < 0.05


def test_a_particle_that_is_not_in_view_gets_no_gradient_and_others_do_not_change_what_one_gets():
    made = COARSE.build(shapes(), 3, 0)
    grads = []
    for rows in ((1,), (1, 2)):
        made.zero_grad(set_to_none=True)
        view = RenderRequest(
            torch.tensor(rows),
            turntable_cameras(1, 15, 3.6, 40)[torch.zeros(len(rows), dtype=torch.long)],
        )
        out = made.render(view)
        (
            out.image[0].square().sum() + sum(term for term in made.regularize(out, 0.0).values())
        ).backward()
        grads.append(made.sdf[1].grad.clone())
        owners = {
            name.split(".")[1]
            for name, p in made.named_parameters()
            if p.grad is not None and bool(p.grad.any())
        }
        assert owners <= {str(row) for row in rows} and "1" in owners
    smooth = [
        made.regularize(
            made.render(
                RenderRequest(torch.tensor(rows), turntable_cameras(len(rows), 15, 3.6, 40))
            ),
            0.0,
        )
        for rows in ((1,), (1, 1))
    ]
    assert smooth[0].keys() == smooth[1].keys() and all(
        torch.equal(smooth[0][k], smooth[1][k]) for k in smooth[0]
    )
    alone, _ = made.surface(1)
    assert len(alone) and grads[0].any()


def test_frozen_parts_are_in_no_group_and_a_fixed_surface_is_made_once():
    prior = shapes()
    both, shape, paint = (
        replace(COARSE, **what).build(prior, 1, 0)
        for what in ({}, {"shading": "normals"}, {"geometry": False, "shading": "texture"})
    )
    named = lambda made: {  # noqa: E731
        name.split(".")[0]
        for name, p in made.named_parameters()
        for group in made.param_groups()
        if any(p is q for q in group["params"])
    }
    assert (
        named(both) == {"sdf", "deform", "colour"}
        and named(shape) == {"sdf", "deform"}
        and named(paint) == {"colour"}
    )
    for made in (both, shape, paint):
        assert {id(p) for p in made.parameters() if p.requires_grad} == {
            id(p) for g in made.param_groups() for p in g["params"]
        }
    assert paint.surface(0) is paint.surface(0) and shape.surface(0) is not shape.surface(0)
    assert not paint.regularize(paint.render(views(0)), 0.0)
    state = paint.state_dict()
    state["init_sdf"] = state["init_sdf"] + 0.1
    before = paint.surface(0)[0].norm(dim=1).mean()
    paint.load_state_dict(state)
    assert (
        abs((before - paint.surface(0)[0].norm(dim=1).mean()).item() - 0.1) < 0.02
    )  # what is loaded is shown


def test_outlines_alone_turn_a_ball_into_an_ellipsoid():
    """Adam on the squared error of four opacities: half axes to a quarter of a cell."""
    prior, radii = colored_shapes(32), (0.45, 0.85, 0.6)
    spec = replace(COARSE, grid_resolution=16, sdf_lr=2e-2, shading="clay", laplacian_weight=0.0, normal_consistency_weight=0.0)
    with torch.no_grad():
        goal = replace(spec, init_radii=radii).build(prior, 1, 0).render(views(0, 0, 0, 0)).alpha
    made = replace(spec, init_radii=(0.6, 0.6, 0.6)).build(prior, 1, 0)
    adam = torch.optim.Adam(made.param_groups())
    for step in range(60):
        adam.param_groups[0]["lr"] = spec.sdf_lr * (1 - step / 60)
        loss = (made.render(views(0, 0, 0, 0)).alpha - goal).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    reached = made.surface(0)[0].detach().abs().amax(0)
    assert max_difference(reached, torch.tensor(radii)) < made.grid.cell / 4, reached


@pytest.mark.parametrize(
    "spec", [COARSE, replace(COARSE, sdf_blur=0.0, geometry=False, shading="texture")]
)
def test_a_resumed_run_is_bit_identical(spec):
    experiment = Experiment(("a red disc",), model="gaussians", method=SDS(5.0), representation=spec, cameras=Orbit(2), particles=2,
                            batch_size=1, steps=5)  # fmt: skip
    whole = Run(experiment, shapes())
    for _ in range(3):
        whole.advance()
    kept = {name: value.clone() for name, value in whole.tensors().items()}
    torch.manual_seed(123)  # nothing may hang on the global generator
    again = Run(experiment, shapes())
    again.load(kept, 3)
    for _ in range(2):
        a, b = whole.advance(), again.advance()
        assert torch.equal(a.gradient, b.gradient)
    ours, theirs = whole.tensors(), again.tensors()
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
    assert any(not torch.equal(ours[name], kept[name]) for name in kept)


def test_the_distances_of_a_mesh_are_those_of_its_surface():
    made = replace(COARSE, grid_resolution=24, init_radii=(0.6, 0.6, 0.6)).build(shapes(), 1, 0)
    points = 0.7 * normal(200, 3, seed=1).float()
    near = points[(points.norm(dim=1) - 0.6).abs() < 0.3]
    assert max_difference(made.distance(near, 0), near.norm(dim=1) - 0.6) < 0.01
    on = torch.nn.functional.normalize(points, dim=1) * 0.6
    assert (
        max_difference(made.density(on, 0), torch.full((200,), 0.5 / made.grid.cell))
        < 0.05 * 0.5 / made.grid.cell
    )
    solid = made.asset(0)
    assert (solid.vertices.norm(dim=1) - 0.6).abs().max() < 0.01 and mesh_volume(
        solid.vertices, MeshTopology(solid.faces, 0)
    ) > 0
    assert (
        torch.equal(solid.color(points), made.albedo(points, 0))
        and not solid.color(points).requires_grad
    )


def test_a_surface_that_is_lost_says_so():
    made = COARSE.build(shapes(), 1, 0)
    made.init_sdf += 9
    with pytest.raises(ValueError, match="particle 0 has no surface left"):
        made.render(views(0))


@pytest.mark.parametrize(("options", "message"), [
    ({"grid_resolution": 3}, "cells"), ({"bound": 0.5}, "radii"), ({"init_radii": (0.7, 0.7, 0.01)}, "more than a cell"),
    ({"ambient": 1.5}, "ambient"), ({"sdf_lr": 0.0}, "rate"), ({"laplacian_weight": -1.0}, "negative"), ({"init_steps": -1}, "fit"),
    ({"images": (Path("a.png"),)}, "leave images out"), ({"geometry": False, "texture": False}, "nothing is optimised"),
    ({"geometry": False, "shading": "normals"}, "not normals"), ({"iso_level": -1.0}, "negative"), ({"sdf_blur": -1.0}, "negative"),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DMTet(**options)


def test_a_mesh_needs_cameras():
    with pytest.raises(ValueError, match="seen by cameras"):
        COARSE.build(shapes(), 1, 0).render(RenderRequest(torch.tensor([0])))
    with pytest.raises(ValueError, match="do not suit mesh"):
        Experiment(
            ("a",), representation=DMTet(), cameras=Experiment(("a",)).representation.cameras
        )


# From one run to the next


def left_behind(folder: Path, representation, particles: int = 1, change=None) -> Path:
    """The folder of a run that was stopped before its first step."""
    experiment = Experiment(
        ("a red disc",), model="gaussians", representation=representation, particles=particles
    )
    run = Run(experiment, shapes())
    if change is not None:
        change(run.representation)
    folder.mkdir()
    (folder / "run.yaml").write_text(config.to_yaml(experiment))
    write_checkpoint(folder / "checkpoint.safetensors", run.tensors())
    return folder


def test_a_mesh_begins_at_the_level_of_a_fields_density_in_its_colours(tmp_path):
    """Magic3D's blob is 10 (1 - r / .5) before the softplus, so the level d lies at r = .5 (1 - log(e^d - 1) / 10)."""
    grid = DenseGridEncoding(resolutions=(3,), init_std=0.0)

    def paint(made) -> None:
        with torch.no_grad():
            made.field(0).encoding.levels[0][..., 1] = torch.linspace(-2, 2, 3)  # the last axis is x

    field = left_behind(
        tmp_path / "field", NeRF(encoding=grid, density_init=Magic3DDensityInit(10.0, 0.5)), change=paint
    )
    spec = replace(
        COARSE,
        grid_resolution=24,
        encoding=DenseGridEncoding(resolutions=(8, 16)),
        decoder=MLPDecoder(),
        init_from=field,
        iso_level=4.0,
        init_steps=100,
    )
    made = build_representation(spec, shapes(), 1, 0)
    radius = 0.5 * (1 - math.log(math.expm1(4.0)) / 10)
    vertices, mesh = made.surface(0)
    assert closed(mesh) and (vertices.norm(dim=1) - radius).abs().max() < 3 * 0.1**2 / (
        8 * radius
    )  # an arc over a cube's diagonal
    wanted = (2 * vertices[:, 0] / 1.2).sigmoid()
    found = made.albedo(vertices, 0).detach()
    assert (found[:, 0] - wanted).abs().max() < 0.02 and (found[:, 1:] - 0.5).abs().max() < 0.02
    assert (
        "begins with" in made.init_message
        and f"{len(made.surface(0)[1].faces):,} faces" in made.init_message
    )


def test_a_mesh_covers_what_is_half_opaque_of_the_field_it_begins_with(tmp_path):
    field = left_behind(
        tmp_path / "field",
        NeRF(
            encoding=DenseGridEncoding(resolutions=(3,), init_std=0.0), density_init=Magic3DDensityInit(8.0, 0.8)
        ),
    )
    theirs, _ = load_representation(field, colored_shapes(48))
    ours = build_representation(
        replace(COARSE, grid_resolution=32, init_from=field), colored_shapes(48), 1, 0
    )
    with torch.no_grad():
        field_alpha, mesh_alpha = (made.render(views(0, 0, 0, 0)).alpha for made in (theirs, ours))
    both, either = (
        (field_alpha > 0.5) & (mesh_alpha > 0.5),
        (field_alpha > 0.5) | (mesh_alpha > 0.5),
    )
    assert both.sum() / either.sum() > 0.95


def test_a_mesh_of_the_same_grid_goes_on_as_it_was_and_another_grid_follows_it(tmp_path):
    def change(made) -> None:
        with torch.no_grad():
            for i in range(2):
                made.sdf[i].add_(0.05 * normal(729, seed=i).float())
                made.deform[i].add_(0.3 * normal(729, 3, seed=i).float())

    folder = left_behind(tmp_path / "mesh", COARSE, 2, change)
    before, count = load_representation(folder, shapes())
    assert isinstance(before, DMTetParticles) and count == 2
    after = build_representation(
        replace(
            COARSE, init_from=folder / "checkpoint.safetensors", geometry=False, shading="texture"
        ),
        shapes(),
        4,
        1,
    )
    points = normal(50, 3, seed=1).float()
    for ours, theirs in enumerate((0, 0, 1, 1)):
        assert max_difference(after.surface(ours)[0], before.surface(theirs)[0]) < 1e-6
        assert torch.equal(after.albedo(points, ours), before.albedo(points, theirs))
    finer = build_representation(replace(COARSE, grid_resolution=16, init_from=folder), shapes(), 2, 0)
    ours, theirs = (mesh_volume(*made.surface(1)).item() for made in (finer, before))
    assert abs(ours / theirs - 1) < 0.05
    with pytest.raises(ValueError, match="2 particles for 3"):
        build_representation(replace(COARSE, init_from=folder), shapes(), 3, 0)


def test_a_start_that_is_none_says_what_is_wanted(tmp_path):
    with pytest.raises(ValueError, match="holds no run to start from"):
        build_representation(replace(COARSE, init_from=tmp_path), shapes(), 1, 0)
    flat = left_behind(tmp_path / "flat", Latents())
    with pytest.raises(ValueError, match="neither density nor colours"):
        build_representation(replace(COARSE, init_from=flat), shapes(), 1, 0)
    thin = left_behind(tmp_path / "thin", NeRF(encoding=DenseGridEncoding(resolutions=(3,), init_std=0.0)))
    with pytest.raises(ValueError, match="no surface left"):
        build_representation(replace(COARSE, init_from=thin, iso_level=1e3), shapes(), 1, 0)
    other = left_behind(tmp_path / "other", replace(COARSE, grid_resolution=9))
    text = (other / "run.yaml").read_text()
    (other / "run.yaml").write_text(text.replace("cells: 9", "cells: 10"))
    with pytest.raises(ValueError, match="another version"):
        build_representation(replace(COARSE, init_from=other), shapes(), 1, 0)
    assert match_particles(2, 4, flat) == [0, 0, 1, 1] and match_particles(1, 3, flat) == [0, 0, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_picture_and_its_gradients_are_those_of_the_cpu():
    spec = replace(COARSE, grid_resolution=24)
    here, there = spec.build(shapes(), 2, 0), spec.build(shapes(), 2, 0).cuda()
    renders = [one.render(views(0, 1, 1)) for one in (here, there)]
    for one, render in zip((here, there), renders, strict=True):
        (render.image.square().sum() + sum(one.regularize(render, 0.0).values())).backward()
    assert max_difference(renders[0].image, renders[1].image.cpu()) < 1e-4
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        assert max_difference(a.grad, b.grad.cpu()) < 1e-3 * max(1.0, a.grad.abs().max().item())
