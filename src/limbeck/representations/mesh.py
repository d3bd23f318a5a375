"""A mesh of one's own: its texture is optimized, and its shape if wanted.

Faces and texture coordinates stay those of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.config.ranges import refuse_given
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.graphics.export.uv_checks import uv_problem
from limbeck.graphics.fields.background import Background
from limbeck.graphics.fields.color import ColorField
from limbeck.graphics.fields.decoders import Decoder, MLPDecoder, check_decoder_learns
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.geometry.assets import MappedMesh, MappedPart
from limbeck.graphics.geometry.mesh import (
    MeshTopology,
    safe_normalize,
    smooth_displacements,
    vertex_normals,
)
from limbeck.graphics.geometry.mesh_file import MeshPart, read_mesh_file
from limbeck.graphics.geometry.mesh_fit import Axis, FittedMesh, fit_mesh
from limbeck.graphics.rendering.mesh_colors import MeshFileColors
from limbeck.graphics.rendering.rasterizer import Fragments
from limbeck.representations.base import Representation, RepresentationConfig
from limbeck.representations.surface import (
    COLOR_SHADINGS,
    MeshShading,
    SurfaceParticles,
    SurfaceRows,
    check_surface_options,
    idle_light,
)
from limbeck.system.files import OtherFileError
from limbeck.system.random import RowRandom
from limbeck.world.background import WorldBackground

_START_MARGIN = 0.02  #: how far inside [0, 1] colors start, where sigmoids move
_GRAY = 0.5


class MeshParticles(SurfaceParticles):
    """A color field, and offsets of the vertices if the geometry is optimized, per particle.

    The color of a point p with the initial color c is sigmoid(logit c + f(p)), where f is the
    field, which starts near 0.

    Args:
        config: options.
        mesh: the mesh in world space.
        particles: number of particles.
        canvas_size: height and width of a render in pixels.
        seed: seed of the color fields and backgrounds.
    """

    config: Mesh
    points: Tensor
    normals: Tensor
    shading_point: Tensor
    digest: Tensor
    faces: Tensor
    shading: Tensor

    def __init__(
        self,
        config: Mesh,
        mesh: FittedMesh,
        particles: int,
        canvas_size: tuple[int, int],
        seed: int,
    ):
        super().__init__()
        self.config, self.canvas_size, self.mesh = config, canvas_size, mesh
        for name in ("points", "normals", "shading_point", "shading", "faces"):
            self.register_buffer(name, getattr(mesh, name), persistent=False)
        self.register_buffer("digest", _digest(mesh, with_colors=True))
        self._topology = MeshTopology(self.faces, len(self.points))
        self.starts_from_file = config.start == "file" or (
            config.start == "auto" and any(part.has_colors for part in mesh.parts)
        )
        parts = [part if part.has_colors else _grayed(part, config) for part in mesh.parts]
        self.file_colors = MeshFileColors(parts) if self.starts_from_file else None
        self.uv_problems = [uv_problem(part.uv, part.faces) for part in mesh.parts]
        rngs = [row.generator("color") for row in RowRandom.initial(seed, particles).split()]
        bound = 1.01 * config.half_size
        self.color_fields = nn.ModuleList(
            ColorField(config.encoding, config.decoder, bound, rng) for rng in rngs
        )
        self.backgrounds = nn.ModuleList(config.background.build(rng) for rng in rngs)
        count = particles if config.geometry else 0
        self.offsets = nn.ParameterList(torch.zeros_like(mesh.points) for _ in range(count))
        self.color_fields.requires_grad_(config.optimizes_color)
        self.init_message = self._describe()

    @property
    def topology(self) -> MeshTopology:
        """Faces between the places of vertices."""
        if self._topology.faces is not self.faces:  # they were moved to another device
            self._topology = MeshTopology(self.faces, len(self.points))
        return self._topology

    def _describe(self) -> str:
        """What was read, in one line."""
        parts = self.mesh.parts
        total = sum(len(part.faces) for part in parts)
        edges = torch.bincount(MeshTopology(self.mesh.faces, len(self.points)).face_edges.flatten())
        lines = [
            f"{self.config.from_}: {total:,} faces"
            + (f" of {len(parts)} materials" if len(parts) > 1 else ""),
            "colors of the file as start" if self.starts_from_file else "gray as start",
        ]
        if not bool((edges == 2).all()):
            lines.append("not a closed surface, which is rendered from both sides")
        made = [f"{p.name} {why}" for p, why in zip(parts, self.uv_problems, strict=True) if why]
        shown = "; ".join(made[:3]) + ("; ..." if len(made) > 3 else "")
        lines.append(f"new texture coordinates ({shown})" if made else "its texture coordinates")
        return ", ".join(lines)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):  # type: ignore[no-untyped-def]
        found = state_dict.get(f"{prefix}digest")
        if found is not None and torch.equal(found.cpu(), _digest(self.mesh)):
            # a run of a version that compared places and faces alone
            state_dict[f"{prefix}digest"] = self.digest.to(found)
        elif found is not None and not torch.equal(found.cpu(), self.digest.cpu()):
            raise OtherFileError(
                f"{self.config.from_} is not the mesh that this run was started with: put that "
                "file back, or start a new run"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def param_groups(self) -> list[dict]:
        c = self.config
        groups = [(c.lr * c.background.lr_scale, list(self.backgrounds.parameters()))]
        if c.geometry:
            groups.append((c.offset_lr, list(self.offsets)))
        if c.optimizes_color:
            for name, scale in (("encoding", c.encoding), ("decoder", c.decoder)):
                modules = [colors.get_submodule(name) for colors in self.color_fields]
                params = [p for module in modules for p in module.parameters()]
                groups.append((c.lr * scale.lr_scale, params))
        return [{"params": params, "lr": lr} for lr, params in groups if params]

    def surface(self, particle: int) -> tuple[Float[Tensor, "v 3"], MeshTopology]:
        if not self.config.geometry:
            return self.points, self.topology
        offset = smooth_displacements(
            self.offsets[particle], self.topology, self.config.offset_smoothing
        )
        return self.points + offset, self.topology

    def corner_normals(self, points: Float[Tensor, "p 3"]) -> Float[Tensor, "f 3 3"]:
        """Return the normals of the corners of all faces: those of the file if nothing moves.

        Args:
            points: places of the vertices.
        """
        if not self.config.geometry:
            return self.normals
        mesh = MeshTopology(self.shading, len(self.shading_point))
        return vertex_normals(points[self.shading_point], mesh)[self.shading]

    def interpolate_surface(
        self, camera: Camera, fragments: Fragments, rows: SurfaceRows
    ) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
        """See ``SurfaceParticles``; normals point to the camera: open surfaces have two sides."""
        points = fragments.interpolate(torch.cat([vertices for vertices, _ in rows]))
        distinct = {id(vertices): vertices for vertices, _ in rows}
        normals = {key: self.corner_normals(vertices) for key, vertices in distinct.items()}
        corners = torch.cat([normals[id(vertices)] for vertices, _ in rows])[fragments.face]
        normal = safe_normalize((corners * fragments.barycentrics[..., None]).sum(1))
        size = fragments.projected.height * fragments.projected.width
        to_camera = camera.eye[fragments.pixel // size] - points.detach()
        is_back = (normal * to_camera).sum(1, keepdim=True) < 0
        return points, torch.where(is_back, -normal, normal)

    def surface_color(
        self,
        request: RenderRequest,
        row: Int[Tensor, "p"],
        fragments: Fragments,
        points: Float[Tensor, "p 3"],
    ) -> Float[Tensor, "p 3"]:
        """See ``SurfaceParticles``: the initial colors, changed by the color fields."""
        initial = torch.full_like(points, _GRAY)
        if self.file_colors is not None:
            face, pixels = fragments.face % len(self.faces), fragments.face_areas()
            initial = self.file_colors(face, fragments.barycentrics.detach(), pixels)
        if not self.config.geometry:
            points = points.detach()
        owner = request.particle.to(row.device)[row]
        out = torch.zeros_like(points)
        for particle in dict.fromkeys(request.particle.tolist()):
            index = (owner == particle).nonzero().squeeze(1)
            change = self.color_field(particle).logits(points[index], request.progress)
            out = out.index_copy(0, index, _changed_color(initial[index], change))
        return out

    @torch.no_grad()
    def asset(self, particle: int) -> MappedMesh:
        """Return the mesh in the coordinates of its file."""
        points, _ = self.surface(particle)
        points, normals = points.double().cpu(), self.corner_normals(points).double().cpu()
        back = self.mesh.matrix.inverse()
        normals = safe_normalize(normals @ self.mesh.matrix[:3, :3]).float()  # a rotation, scaled
        places = points @ back[:3, :3].T + back[:3, 3]
        parts, start = [], 0
        for number, part in enumerate(self.mesh.parts):
            faces = slice(start, start + len(part.faces))
            place = self.mesh.faces[faces]
            vertices = part.vertices.clone()
            if self.config.geometry:
                vertices[part.faces] = places[place]
            first = torch.full((len(points),), len(vertices))
            first.scatter_reduce_(0, place.flatten(), part.faces.flatten(), "amin")
            mapped = MappedPart(
                part.name,
                vertices.float(),
                part.faces,
                first[place],
                normals[faces],
                self.mesh.shading[faces],
                None if self.uv_problems[number] else part.uv,
                _PointColors(self, particle, start),
            )
            parts.append(mapped)
            start += len(part.faces)
        return MappedMesh(tuple(parts), self.mesh.matrix)


@dataclass(frozen=True)
class _PointColors:
    """Colors at points of the faces of one part, for files.

    Attributes:
        mesh: the particles.
        particle: index of the particle.
        start: number of the first face of the part.
    """

    mesh: MeshParticles
    particle: int
    start: int

    @torch.no_grad()
    def __call__(
        self, face: Int[Tensor, "n"], weights: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        points, _ = self.mesh.surface(self.particle)
        face, weights = (face + self.start).to(points.device), weights.to(points)
        at = (points[self.mesh.faces[face]] * weights[..., None]).sum(1)
        initial = torch.full_like(at, _GRAY)
        if self.mesh.file_colors is not None:
            initial = self.mesh.file_colors(face, weights)
        change = self.mesh.color_field(self.particle).logits(at)
        return _changed_color(initial, change).float().cpu()


def _changed_color(
    initial: Float[Tensor, "n 3"], change: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """Colors whose logits differ by ``change`` from the initial ones; exactly those where it is 0.

    Black and white have no finite logits: there the difference to a color just inside is added.
    The gradient passes the limits of [0, 1], so that a color beyond them can come back.
    """
    inside = initial.clamp(_START_MARGIN, 1 - _START_MARGIN)
    color = (inside.logit() + change).sigmoid() + (initial - inside)
    return color + (color.clamp(0, 1) - color).detach()


def _grayed(part: MeshPart, config: Mesh) -> MeshPart:
    """A white part, which is gray unless the colors of the file were asked for."""
    if config.start == "file":
        return part
    return replace(part, colors=torch.full_like(part.colors, _GRAY))


def _digest(mesh: FittedMesh, with_colors: bool = False) -> Tensor:
    """SHA-256 of places and faces, and of the colors, by which a run recognizes its mesh."""
    digest = hashlib.sha256(mesh.points.numpy().tobytes())
    digest.update(mesh.faces.numpy().tobytes())
    for part in mesh.parts if with_colors else ():
        for values in (part.colors, part.uv, part.texture):
            digest.update(b"none" if values is None else values.contiguous().numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


@dataclass(frozen=True)
class Mesh(RepresentationConfig):
    """A mesh of one's own, whose texture is optimized, and its shape if wanted.

    Attributes:
        from_: the mesh: .glb, .gltf, .obj or .ply.
        start: initial colors. file: those of the file; gray; auto: those of the file, except that
            materials that are white everywhere are gray.
        geometry: whether the vertices are optimized too.
        texture: whether the colors are optimized, where the shading shows them.
        up: axis of the file that points up.
        front: axis of the file that points to the front.
        half_size: half the longest side of the bounding box, in world units; its middle is the
            origin. Exported files have the size and place of ``from``.
        shading: texture: unlit colors; lit: colors lit by a light at the camera; clay: gray in that
            light; normals: world-space normals as colors, n / 2 + 1 / 2; facing: the same of
            camera-space normals.
        ambient: ambient part of the light, in [0, 1].
        background: background behind the mesh.
        encoding: encoding of the points for the color field.
        decoder: network from the encoding to changes of the colors.
        offset_smoothing: rounds in which the offsets of the vertices are blended with those of
            their neighbors, so that steps are smooth.
        laplacian_weight: weight of the mean distance of vertices from the mean of their neighbors,
            with ``geometry``.
        normal_consistency_weight: weight of the mean of 1 - cos between adjacent faces, with
            ``geometry``.
        lr: peak learning rate of the colors.
        offset_lr: peak learning rate of the offsets, in world units.
    """

    name = "mesh"

    from_: Path | None = None
    start: Literal["auto", "file", "gray"] = "auto"
    geometry: bool = False
    texture: bool = True
    up: Axis = "+y"
    front: Axis = "+z"
    half_size: float = 0.8
    shading: MeshShading = "lit"
    ambient: float = 0.4
    background: Background = field(default_factory=WorldBackground)
    encoding: Encoding = field(default_factory=DenseGridEncoding)
    decoder: Decoder = field(default_factory=MLPDecoder)
    offset_smoothing: int = 10
    laplacian_weight: float = 0.0
    normal_consistency_weight: float = 10.0
    lr: float = 1e-2
    offset_lr: float = 2e-3

    def __post_init__(self) -> None:
        if self.images:
            raise ValueError("a mesh cannot start from images: leave out images")
        if self.up[1] == self.front[1]:
            raise ValueError(f"up and front must be different axes, not {self.up} and {self.front}")
        for name in ("half_size", "lr", "offset_lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        weights = ("laplacian_weight", "normal_consistency_weight")
        for name in ("offset_smoothing", *weights):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        check_decoder_learns(self.encoding, self.decoder)
        if not self.geometry:
            moving = ("offset_smoothing", "offset_lr", *weights)
            refuse_given(self, "without geometry: leave it out, or give geometry", *moving)
        check_surface_options(self, self.texture)

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
        if not self.shows_color:
            idle["start"] = f"with shading {self.shading}, which shows no colors"
        return idle

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    @property
    def input_files(self) -> tuple[Path, ...]:
        return () if self.from_ is None else (self.from_,)

    def check_files(self) -> None:
        self._read()

    def _read(self) -> tuple[MeshPart, ...]:
        if self.from_ is None:
            raise ValueError("--representation mesh needs --representation.from FILE, your mesh")
        return read_mesh_file(self.from_)

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        mesh = fit_mesh(self._read(), self.half_size, self.up, self.front)
        canvas_size = self.canvas_size(prior)
        return MeshParticles(self, mesh, particles, canvas_size, seed).to(prior.device)
