"""Gaussian splats of another 3D run: points on its surface, then a fit to its renders."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera, orbit_cameras, spiral_angles
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.geometry.assets import MappedMesh, Surface
from limbeck.graphics.geometry.surface_sampling import mean_neighbor_distance, sample_surface_points
from limbeck.graphics.rendering.gaussian_compositing import MAX_OPACITY
from limbeck.representations.base import Render, Representation, SpatialFields
from limbeck.representations.image_init import color_logits
from limbeck.representations.particle_parameters import ParticleParameters

_SURFACE_OPACITY = 0.8  #: initial opacity on a surface
_VIEWS = 64  #: renders that splats are fitted to
_ROWS = 4  #: of them in a step
_FOV = 40.0  #: of the renders, in degrees
#: lowest and highest elevation of the renders, in degrees
_ELEVATIONS = (-30.0, 80.0)
#: Peak learning rates of the fit, whatever those of the run are: a run that refines gently would
#: not get there in so few steps.
_LRS = {"means": 0.005, "scales": 0.03, "quats": 0.03, "opacities": 0.1, "colors": 0.05}


def field_surface(
    field: SpatialFields,
    particle: int,
    count: int,
    bound: float,
    rng: torch.Generator,
    device: str | torch.device,
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k 3"]]:
    """Points near the surface of a field, and their colors.

    Args:
        field: the field.
        particle: its particle.
        count: number of points.
        bound: largest distance from the origin.
        rng: source of the points.
        device: where the field is evaluated.

    Raises:
        ValueError: if there is no surface.
    """
    box = math.inf if field.box_bound is None else (1 + 1e-6) * field.box_bound

    def density(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        # outside of the box of the field its density means nothing, and no render shows it
        is_inside = (points.abs() <= box).all(1)
        return torch.where(is_inside, field.density(points, particle), 0)

    points = sample_surface_points(density, count, bound, rng, device)
    return points, field.albedo(points, particle)


def mesh_surface(
    mesh: Surface | MappedMesh, count: int, rng: torch.Generator
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k 3"]]:
    """Points in world space on a mesh, evenly by area, and their colors.

    Args:
        mesh: the mesh.
        count: number of points.
        rng: source of the points.
    """
    corners = _corners(mesh)
    a, b, c = corners.unbind(1)
    areas = torch.linalg.cross(b - a, c - a).norm(dim=1).double()
    chosen = torch.multinomial(areas, count, replacement=True, generator=rng)
    weights = -torch.rand(count, 3, generator=rng).clamp_min(1e-9).log()
    weights = weights / weights.sum(1, keepdim=True)  # uniform on a triangle
    points = (corners[chosen] * weights[..., None]).sum(1)
    if isinstance(mesh, Surface):
        return points, mesh.color(points.to(mesh.vertices)).float().cpu()
    colors, start = torch.zeros(count, 3), 0
    for part in mesh.parts:
        rows = ((chosen >= start) & (chosen < start + len(part.faces))).nonzero().squeeze(1)
        colors[rows] = part.color(chosen[rows] - start, weights[rows]).float().cpu()
        start += len(part.faces)
    return points, colors


def _corners(mesh: Surface | MappedMesh) -> Float[Tensor, "f 3 3"]:
    """Corners of all faces in world space, on the CPU."""
    if isinstance(mesh, Surface):
        return mesh.vertices.float().cpu()[mesh.faces.cpu()]
    matrix = mesh.world.float()
    parts = [
        (part.vertices.cpu() @ matrix[:3, :3].T + matrix[:3, 3])[part.faces.cpu()]
        for part in mesh.parts
    ]
    return torch.cat(parts)


def surface_splats(
    points: Float[Tensor, "k 3"], colors: Float[Tensor, "k 3"], init_scale: float
) -> dict[str, Tensor]:
    """Opaque round splats on a surface.

    Args:
        points: points on it.
        colors: their colors.
        init_scale: standard deviation as a multiple of the distance of neighbors.

    Returns:
        ``means`` ``[K, 3]``, ``scales`` ``[K, 3]`` (logarithms), ``quats`` ``[K, 4]``,
        ``opacities`` ``[K]`` and ``colors`` ``[K, 3]`` (logits).
    """
    scales = init_scale * mean_neighbor_distance(points)
    return {
        "means": points,
        "scales": scales.log()[:, None].expand(-1, 3),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).to(points).expand(len(points), -1),
        "opacities": torch.full_like(scales, _SURFACE_OPACITY / MAX_OPACITY).logit(),
        "colors": color_logits(colors),
    }


def fit_to_renders(
    splats: ParticleParameters,
    i: int,
    other: Representation,
    j: int,
    size: tuple[int, int],
    bound: float,
    steps: int,
    rng: torch.Generator,
) -> float:
    """Fit particle i to unlit renders of another 3D representation from all around.

    Light and normals would stay in the colors of the splats, which have no shading. Adam on the
    squared error of alpha, and of the color where the other one is opaque, with a cosine schedule
    to 0.

    Args:
        splats: the particles, fitted in place; their backgrounds stay.
        i: particle that is fitted.
        other: the other representation, whose renders are images.
        j: its particle.
        size: height and width of the renders.
        bound: the cameras see a ball of this radius.
        steps: optimizer steps.
        rng: source of the choice of views.

    Returns:
        Peak signal-to-noise ratio of the color where the other one is opaque, in dB.
    """
    cameras = _cameras(bound).to(next(splats.parameters()).device)
    images, alphas = _render_views(other, j, cameras, size)
    groups = [{"params": [splats.params[name][i]], "lr": lr} for name, lr in _LRS.items()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))

    def errors(rows: Tensor) -> tuple[Tensor, Tensor]:
        request = RenderRequest(torch.full((len(rows),), i), cameras[rows], size=size)
        render = splats.render(request)
        weight = alphas[rows].square()
        return weight * (render.image - images[rows]).square(), _alpha(render) - alphas[rows]

    with torch.enable_grad():
        for step in range(steps):
            rows = torch.randint(_VIEWS, (_ROWS,), generator=rng).to(images.device)
            color, alpha = errors(rows)
            optimizer.zero_grad(set_to_none=True)
            (color.mean() + alpha.square().mean()).backward()
            optimizer.step()
            splats.after_step(step, steps, optimizer)
            scheduler.step()
    splats.zero_grad(set_to_none=True)
    with torch.no_grad():
        chunks = torch.arange(_VIEWS, device=images.device).split(_ROWS)
        total = sum(float(errors(rows)[0].sum()) for rows in chunks)
    weight = 3 * float(alphas.square().sum())
    return 10 * math.log10(weight / max(total, 1e-10 * weight))


@torch.no_grad()
def _render_views(
    other: Representation, j: int, cameras: Camera, size: tuple[int, int]
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 1 h w"]]:
    """Return unlit image and alpha of a particle from each camera."""
    renders = [
        other.render_unlit(RenderRequest(torch.full((len(rows),), j), cameras[rows], size=size))
        for rows in torch.arange(_VIEWS).split(_ROWS)
    ]
    images = torch.cat([render.image for render in renders])
    return images, torch.cat([_alpha(render) for render in renders])


def _alpha(render: Render) -> Float[Tensor, "b 1 h w"]:
    assert render.alpha is not None, "fields and splats render alpha"
    return render.alpha


def _cameras(bound: float) -> Camera:
    """Cameras on a spiral from below to above, as many in equal areas of the sphere."""
    azimuth, elevation = spiral_angles(_VIEWS, *_ELEVATIONS)
    distance = bound / math.sin(math.radians(_FOV / 2))
    return orbit_cameras(azimuth, elevation, distance, _FOV)
