"""DMTet: a surface from a tetrahedral grid of signed distances, with a color field.

Fantasia3D, Magic3D and ProlificDreamer refine the result of a radiance field this way.

References:
    Shen et al., Deep Marching Tetrahedra: a Hybrid Representation for High-Resolution 3D Shape
    Synthesis, NeurIPS 2021, arXiv 2111.04276.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.graphics.fields.background import Background
from limbeck.graphics.fields.color import ColorField, fit_color_field
from limbeck.graphics.fields.decoders import Decoder, MLPDecoder, check_decoder_learns
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.marching_tetrahedra import (
    TetGrid,
    ellipsoid_sdf,
    gaussian_blur_matrix,
    level_set_to_sdf,
)
from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    remove_small_components,
)
from limbeck.graphics.geometry.opacity_field import density_to_sdf
from limbeck.representations.base import (
    Representation,
    RepresentationConfig,
    SpatialFields,
    match_particles,
)
from limbeck.representations.surface import (
    COLOR_SHADINGS,
    MeshShading,
    SurfaceParticles,
    check_surface_options,
    idle_light,
)
from limbeck.system.notices import notify
from limbeck.system.random import RowRandom
from limbeck.world.background import WorldBackground

_MIN_COMPONENT_SHARE = 0.01  #: Components with a smaller share of the faces are left out of files.

_REACH_CELLS = 64  #: Cells per side of the grid that tells how far an iso-surface reaches.


class DMTetParticles(SurfaceParticles):
    """Signed distances, offsets of the grid's vertices and a color field per particle.

    Args:
        config: options of the mesh.
        sdf: initial signed distances of N particles at the V vertices of the grid.
        canvas_size: height and width of a render in pixels.
        seed: seed of the color fields and backgrounds.

    Attributes:
        init_sdf: initial signed distances, ``[N, V]``; ``sdf`` is learned on top of them.
    """

    config: DMTet
    init_sdf: Tensor
    boundary: Tensor
    blur: Tensor

    def __init__(
        self, config: DMTet, sdf: Float[Tensor, "n v"], canvas_size: tuple[int, int], seed: int
    ):
        super().__init__()
        self.config, self.grid, self.canvas_size = config, config.grid, canvas_size
        particles, num_vertices = sdf.shape
        self.register_buffer("init_sdf", sdf)
        self.sdf = nn.ParameterList(torch.zeros(num_vertices) for _ in range(particles))
        self.deform = nn.ParameterList(torch.zeros(num_vertices, 3) for _ in range(particles))
        rngs = [row.generator("color") for row in RowRandom.initial(seed, particles).split()]
        self.color_fields = nn.ModuleList(
            ColorField(config.encoding, config.decoder, config.bound, rng) for rng in rngs
        )
        self.backgrounds = nn.ModuleList(config.background.build(rng) for rng in rngs)
        self.sdf.requires_grad_(config.geometry)
        self.deform.requires_grad_(config.geometry)
        self.color_fields.requires_grad_(config.optimizes_color)
        self.register_buffer("boundary", self.grid.boundary_mask(), persistent=False)
        blur = gaussian_blur_matrix(self.grid.vertices_per_side, config.sdf_blur)
        self.register_buffer("blur", blur, persistent=False)
        self._cache: dict[int, tuple[Tensor, MeshTopology]] = {}  # surfaces that do not change
        self.register_load_state_dict_post_hook(lambda module, _: module._cache.clear())

    @property
    def box_bound(self) -> float | None:
        return self.config.bound

    def param_groups(self) -> list[dict]:
        c = self.config
        groups = [(c.lr * c.background.lr_scale, list(self.backgrounds.parameters()))]
        if c.geometry:
            groups += [(c.sdf_lr, list(self.sdf)), (c.deform_lr, list(self.deform))]
        if c.optimizes_color:
            lr_scales = {"encoding": c.encoding.lr_scale, "decoder": c.decoder.lr_scale}
            for name, lr_scale in lr_scales.items():
                modules = [field.get_submodule(name) for field in self.color_fields]
                params = [p for module in modules for p in module.parameters()]
                groups.append((c.lr * lr_scale, params))
        return [{"params": params, "lr": lr} for lr, params in groups if params]

    def vertex_sdf(self, particle: int) -> Float[Tensor, "v"]:
        """Return the signed distances at the grid's vertices: initial ones plus blurred updates."""
        update = self.sdf[particle]
        if self.config.sdf_blur:
            cube = update.reshape((self.grid.vertices_per_side,) * 3)
            for _ in range(3):  # along the last axis, which becomes the first
                cube = (cube @ self.blur).permute(2, 0, 1)
            update = cube.flatten()
        return self.init_sdf[particle] + update

    def surface(self, particle: int) -> tuple[Float[Tensor, "v 3"], MeshTopology]:
        """Return vertices in world space and the faces of a closed surface.

        The boundary of the box is always outside. Surfaces that do not change are cached.

        Raises:
            ValueError: if no surface is left.
        """
        if particle in self._cache:
            return self._cache[particle]
        sdf = self.vertex_sdf(particle)
        sdf = torch.where(self.boundary, sdf.clamp_min(0.1 * self.grid.cell_size), sdf)
        # vertices of edges that meet in a grid point would coincide if it lay on the surface
        gap = 1e-3 * self.grid.cell_size
        apart = torch.where(sdf < 0, sdf.clamp_max(-gap), sdf.clamp_min(gap))
        sdf = sdf + (apart - sdf).detach()  # the gradient passes
        surface = self.grid.extract_surface(sdf, self.grid.deform(self.deform[particle]))
        if not len(surface[1].faces):
            raise ValueError(
                f"particle {particle} has no surface left, and no gradient restores it: use larger "
                "--representation.init-radii, a lower --representation.iso-level or a lower "
                "--representation.sdf-lr"
            )
        if not self.config.geometry:
            self._cache[particle] = surface
        return surface

    def density(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n"]:
        """Return sigmoid(-s / cell) / cell of the signed distance s; 1 / (2 cell) on the surface.

        Offsets of the grid's vertices are ignored.

        Args:
            points: points in world space.
            particle: index of the particle.
        """
        cell_size = self.grid.cell_size
        return (-self.signed_distance(points, particle) / cell_size).sigmoid() / cell_size

    def signed_distance(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n"]:
        """Return the signed distance, interpolated between the grid's vertices.

        Args:
            points: points in world space.
            particle: index of the particle.
        """
        n = self.grid.vertices_per_side
        cube = self.vertex_sdf(particle).reshape(1, 1, n, n, n)
        # grid_sample takes the coordinate of the last axis first
        at = (points.flip(1) / self.grid.bound)[None, None, None]
        values = nn.functional.grid_sample(cube, at, align_corners=True, padding_mode="border")
        return values.flatten()

    def albedo(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n 3"]:
        """Return the unlit color, defined everywhere and meaningful near the surface.

        Args:
            points: points in world space.
            particle: index of the particle.
        """
        return self.color_field(particle)(points)

    def initialize_from(
        self, other: Representation, particles: int, source: Path, seed: int
    ) -> None:
        """See ``Representation``: takes surface and colors of a mesh or a 3D field."""
        if not isinstance(other, SpatialFields):
            raise ValueError(
                f"{source} is a run of {type(other).__name__}, which has no density and colors in "
                "space"
            )
        rows = RowRandom.initial(seed, len(self.sdf)).split()
        for i, j in enumerate(match_particles(particles, len(self.sdf), source)):
            rng = rows[i].generator("color fit")
            self._initialize_geometry(i, other, j)
            if other.box_bound is not None and other.box_bound > self.config.bound:
                self._notify_cut(other, j, other.box_bound, source)
            self._initialize_color(i, other, j, rng)
        counts = [f"{len(self.surface(i)[1].faces):,}" for i in range(len(self.sdf))]
        self.init_message = f"initialized from {source}: {', '.join(counts)} faces"

    @torch.no_grad()
    def _initialize_geometry(self, i: int, other: SpatialFields, j: int) -> None:
        """Copy the mesh of particle j if the grids agree, else resample its surface."""
        grid = self.grid
        points = grid.vertices().to(self.sdf[i])
        bound = math.inf if other.box_bound is None else (1 + 1e-6) * other.box_bound
        beyond = (points.abs() > bound).any(1)  # where the other one is cut off
        if isinstance(other, DMTetParticles) and other.grid == grid:
            self.init_sdf[i] = other.vertex_sdf(j)
            self.deform[i].copy_(other.deform[j])
        elif isinstance(other, DMTetParticles):
            sdf = other.signed_distance(points, j)
            to_box = points.abs().amax(1) - other.grid.bound
            self.init_sdf[i] = torch.where(beyond, sdf.maximum(to_box), sdf)
        else:
            density = torch.cat([other.density(chunk, j) for chunk in points.split(1 << 18)])
            density = torch.where(beyond, 0, density)
            iso_level = self.config.iso_level
            self.init_sdf[i] = (
                level_set_to_sdf(iso_level - density, grid)
                if iso_level
                else density_to_sdf(density, grid)
            )

    @torch.no_grad()
    def _notify_cut(self, other: SpatialFields, j: int, bound: float, source: Path) -> None:
        """Give a notice if particle j, in a box of this bound, reaches beyond the grid."""
        iso_level = self.config.iso_level
        if isinstance(other, DMTetParticles) or not iso_level:
            points = other.asset(j).vertices
        else:
            points = TetGrid(_REACH_CELLS, bound).vertices().to(self.init_sdf)
            density = torch.cat([other.density(chunk, j) for chunk in points.split(1 << 18)])
            points = points[density > iso_level]
        reach = points.abs().amax(1)
        share = float((reach > self.config.bound).float().mean())
        if share > 0:
            notify(
                f"{100 * share:.2g} % of particle {j} of {source} lies outside of the grid and is "
                f"cut off: set --representation.bound {math.ceil(10 * float(reach.max())) / 10:g}, "
                f"not {self.config.bound:g}"
            )

    def _initialize_color(self, i: int, other: SpatialFields, j: int, rng: torch.Generator) -> None:
        """Copy the color field of particle j if it has the same parameters, else fit to it."""
        c, field = self.config, self.color_field(i)
        with torch.no_grad():
            vertices, _ = self.surface(i)
        if isinstance(other, DMTetParticles) and other.config.has_color_field_of(c):
            field.load_state_dict(other.color_field(j).state_dict())
            return
        target = partial(other.albedo, particle=j) if c.iso_level else other.asset(j).color
        lrs = (c.lr * c.encoding.lr_scale, c.lr * c.decoder.lr_scale)
        fit_color_field(field, target, vertices, self.grid.cell_size, lrs, c.init_steps, rng)
        field.requires_grad_(c.optimizes_color)

    @torch.no_grad()
    def asset(self, particle: int) -> Surface:
        """Return the surface without small components, which no view constrains."""
        vertices, mesh = remove_small_components(*self.surface(particle), _MIN_COMPONENT_SHARE)
        return Surface(vertices, mesh.faces, torch.no_grad()(self.color_field(particle)))


@dataclass(frozen=True)
class DMTet(RepresentationConfig):
    """A mesh by marching tetrahedra from a grid of signed distances, and a color field.

    Initially an ellipsoid, or the result of another run.

    Attributes:
        grid_resolution: cells per side of the grid, at least 4 (papers: 128 and 256).
        bound: half the side of the box, in world units.
        init_radii: half axes of the initial ellipsoid, more than a cell and less than ``bound``.
        init_from: run folder or checkpoint of a NeRF or DMTet to start from, with one particle, one
            per prompt, or one per particle. None: the ellipsoid.
        iso_level: density of the surface that is taken from a NeRF. 0: the surface that the NeRF
            shows, with the silhouette of the half-opaque pixels and the colors of frontal views.
        init_steps: steps that fit the color field to that of ``init_from``.
        geometry: whether the surface is optimized.
        texture: whether the colors are optimized, where the shading shows them.
        shading: texture: unlit colors; lit: colors lit by a light at the camera; clay: gray in that
            light; normals: world-space normals as colors, n / 2 + 1 / 2; facing: the same of
            camera-space normals.
        ambient: ambient part of the light, in [0, 1].
        background: background behind the mesh.
        encoding: encoding of the points for the color field.
        decoder: network from the encoding to colors.
        sdf_blur: standard deviation in cells of a blur of the updates of the distances, so that
            steps are smooth (as in Nicolet et al. 2021, arXiv 2107.05513). 0: plain DMTet.
        laplacian_weight: weight of the mean distance of vertices from the mean of their neighbors
            (ProlificDreamer 0.5, threestudio 10,000).
        normal_consistency_weight: weight of the mean of 1 - cos between adjacent faces
            (ProlificDreamer 5,000, threestudio 10,000).
        lr: peak learning rate of the colors.
        sdf_lr: peak learning rate of the signed distances, in world units.
        deform_lr: peak learning rate of the raw offsets of the grid's vertices; their tanh is in
            half cells.
    """

    name = "dmtet"

    grid_resolution: int = 32
    bound: float = 1.2
    init_radii: tuple[float, float, float] = (0.7, 0.7, 0.7)
    init_from: Path | None = None
    iso_level: float = 0.0
    init_steps: int = 200
    geometry: bool = True
    texture: bool = True
    shading: MeshShading = "lit"
    ambient: float = 0.4
    background: Background = field(default_factory=WorldBackground)
    encoding: Encoding = field(default_factory=DenseGridEncoding)
    decoder: Decoder = field(default_factory=MLPDecoder)
    sdf_blur: float = 1.5
    laplacian_weight: float = 300.0
    normal_consistency_weight: float = 100.0
    lr: float = 1e-2
    sdf_lr: float = 5e-3
    deform_lr: float = 2e-3

    def __post_init__(self) -> None:
        if self.images:
            raise ValueError("DMTet cannot start from images: leave out images, or use init_from")
        if self.grid_resolution < 4:
            raise ValueError(f"grid_resolution must be at least 4, not {self.grid_resolution}")
        for name in ("bound", "lr", "sdf_lr", "deform_lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        cell_size = 2 * self.bound / self.grid_resolution
        if not cell_size < min(self.init_radii) <= max(self.init_radii) < self.bound:
            raise ValueError(
                f"init_radii must be more than a cell, {cell_size:g}, and less than bound, "
                f"{self.bound:g}, not {self.init_radii}"
            )
        weights = ("laplacian_weight", "normal_consistency_weight")
        for name in ("init_steps", "iso_level", "sdf_blur", *weights):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        check_decoder_learns(self.encoding, self.decoder)
        check_surface_options(self, self.texture)

    @property
    def grid(self) -> TetGrid:
        """The tetrahedral grid."""
        return TetGrid(self.grid_resolution, self.bound)

    @property
    def optimizes_shape(self) -> bool:
        return self.geometry

    @property
    def shows_color(self) -> bool:
        return self.shading in COLOR_SHADINGS

    @property
    def optimizes_color(self) -> bool:
        """Whether colors are optimized."""
        return self.texture and self.shows_color

    @property
    def idle_options(self) -> Mapping[str, str]:
        idle = idle_light(self.shading)
        if not self.geometry:
            names = ("sdf_blur", "sdf_lr", "deform_lr", "laplacian_weight")
            idle |= dict.fromkeys((*names, "normal_consistency_weight"), "without geometry")
        if self.init_from is None:
            idle |= dict.fromkeys(("init_steps", "iso_level"), "without init_from")
        else:
            idle["init_radii"] = "with init_from"
        return idle

    def has_color_field_of(self, other: DMTet) -> bool:
        """Return whether the color fields of both configs have the same parameters."""
        ours, theirs = ((c.encoding, c.decoder, c.bound) for c in (self, other))
        return ours == theirs

    @property
    def uninitialized(self) -> DMTet:
        return replace(self, init_from=None)

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        canvas_size, points = self.canvas_size(prior), self.grid.vertices()
        sdf = ellipsoid_sdf(points, self.init_radii).expand(particles, -1)
        return DMTetParticles(self, sdf.clone(), canvas_size, seed).to(prior.device)
