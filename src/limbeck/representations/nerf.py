"""Radiance fields: density and colour of every point of a box, rendered by marching rays through it (DreamFusion, Poole et al.
2022, arXiv 2209.14988; NeRF, Mildenhall et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.graphics.fields.background import Background, BackgroundModule
from limbeck.graphics.fields.decoders import Decoder, IdentityDecoder
from limbeck.graphics.fields.density_init import DensityInit, Magic3DDensityInit
from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.geometry.marching_tetrahedra import (
    TetGrid,
    level_set_to_sdf,
    silhouette_iso_level,
)
from limbeck.graphics.geometry.mesh import remove_small_components
from limbeck.graphics.rendering.occupancy_grid import OccupancyGrid
from limbeck.graphics.rendering.shading import PointLight, Shading
from limbeck.graphics.rendering.volume import importance_resample, ray_march, step_size
from limbeck.representations.base import Render, Representation, RepresentationConfig, latent_shape
from limbeck.world.background import WorldBackground

CELLS = 96  #: to a side of the grid that surfaces are cut from
SPECK = 0.01  #: of the faces: a smaller piece is left out of a surface
REFRESH = 16  #: steps between looks at which cells are empty
FAINT = 0.01  #: opacity of a sample up to which its cell counts as empty (nerfacc's default)


class _Unbounded(BackgroundModule):
    """One learned latent behind everything."""

    def __init__(self, channels: int):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(channels))

    def forward(self, ahead: Float[Tensor, "*n 3"], rng: torch.Generator | None = None, progress: float = 1.0
                ) -> Float[Tensor, "*n c"]:  # fmt: skip
        return self.value.expand(*ahead.shape[:-1], -1)


class NeRFParticle(nn.Module):
    """One particle: features of points, what they mean, what is behind, where it may hold something."""

    encoding: EncodingModule
    background: BackgroundModule
    occupancy: OccupancyGrid

    def __init__(self, spec: NeRF, channels: int, generator: torch.Generator):
        super().__init__()
        self.encoding = spec.encoding.build(generator)
        self.decoder = spec.decoder.build(self.encoding.num_features, generator, 1 + channels)
        self.background = (
            _Unbounded(channels) if spec.space == "latent" else spec.background.build(generator)
        )
        self.occupancy = OccupancyGrid(
            spec.occupancy_resolution,
            spec.bound,
            -math.log1p(-FAINT) / step_size(spec.bound, spec.samples),
        )


class NeRFParticles(Representation):
    """Particles as radiance fields."""

    def __init__(self, spec: NeRF, prior: Prior, particles: int, seed: int):
        super().__init__()
        latent = spec.space == "latent"
        shape = (
            latent_shape(prior, spec.canvas_size(prior))
            if latent
            else (3, *spec.canvas_size(prior))
        )
        self.spec, self.channels, self.canvas = spec, shape[0], shape[1:]
        self.seed = seed
        draws = (torch.Generator().manual_seed(seed * 7_919 + i) for i in range(particles))
        self.particles = nn.ModuleList(NeRFParticle(spec, self.channels, draw) for draw in draws)
        self.to(prior.device)

    def param_groups(self) -> Iterable[dict]:
        s = self.spec
        for name, rate in (
            ("encoding", s.encoding.lr_scale),
            ("decoder", s.decoder.lr_scale),
            ("background", s.background.lr_scale),
        ):
            found = [p for one in self.particles for p in one.get_submodule(name).parameters()]
            if found:
                yield {"params": found, "lr": s.lr * rate}

    def field(self, particle: int) -> NeRFParticle:
        """The parts of a particle."""
        found = self.particles[particle]
        assert isinstance(found, NeRFParticle)
        return found

    def query(self, particle: int, points: Float[Tensor, "n 3"], progress: float = 1.0, rng: torch.Generator | None = None
               ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n c"]]:  # fmt: skip
        """Density, per unit of length, and albedo in [0, 1], or latents, of points of the world."""
        s, one = self.spec, self.field(particle)
        raw = one.decoder(one.encoding(points / s.bound, progress))
        height = s.density_scale * raw[:, 0] + s.density_init(points)
        if s.density_noise and rng is not None:
            height = height + s.density_noise * torch.randn(len(points), generator=rng).to(height)
        density = (
            F.softplus(height) if s.density_activation == "softplus" else height.clamp_max(15).exp()
        )
        return density, raw[:, 1:].sigmoid() if s.space == "image" else raw[:, 1:]

    def density(
        self, points: Float[Tensor, "n 3"], particle: int, progress: float = 1.0
    ) -> Float[Tensor, "n"]:
        """Density of points of the world, per unit of length."""
        return self.query(particle, points, progress)[0]

    def albedo(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n 3"]:
        """Colour of points of the world, without light; ValueError where it is made of latents."""
        if self.spec.space == "latent":
            raise ValueError(
                "a field of latents has no colours of its own: render it, or train one with --representation.space image"
            )
        return self.query(particle, points)[1]

    def normals(
        self, particle: int, points: Float[Tensor, "n 3"], progress: float
    ) -> Float[Tensor, "n 3"]:
        """- grad density, of unit length, by central differences, so that gradients of what is lit reach the density."""
        e = self.spec.bound / 64
        ways = e * torch.cat([torch.eye(3), -torch.eye(3)]).to(points)
        ahead, behind = (
            self.density((points[:, None] + ways).reshape(-1, 3), particle, progress)
            .view(-1, 2, 3)
            .unbind(1)
        )
        return F.normalize(behind - ahead, dim=1, eps=1e-8)

    def _side(self, progress: float) -> tuple[int, int]:
        """Height and width rendered under training at this share of the run."""
        s = self.spec
        short = (
            s.resolution_late
            if progress >= s.resolution_switch and s.resolution_late
            else s.resolution
        )
        height, width = self.canvas
        return (
            (short * height // min(self.canvas), short * width // min(self.canvas))
            if short
            else (height, width)
        )

    def render(self, view: RenderRequest) -> Render:
        if view.camera is None:
            raise ValueError("a field is looked at by cameras: --cameras orbit")
        device = self.field(0).occupancy.densities.device
        light = self.spec.shading.sample_light(view.camera, view)
        rows = {
            k: (view.particle == k).nonzero().squeeze(1)
            for k in sorted(set(view.particle.tolist()))
        }
        parts = [
            self._of(k, view[at], device, light and light.select(at)) for k, at in rows.items()
        ]
        back = view.particle.argsort(stable=True).argsort().to(device)
        join = lambda name: torch.cat([getattr(part, name) for part in parts])[back]  # noqa: E731
        normal = join("normal") if parts[0].normal is not None else None
        terms = {
            name: torch.stack([part.terms[name] for part in parts]).mean()
            for name in parts[0].terms
        }
        return Render(join("image"), self.spec.space, join("alpha"), join("depth"), normal, terms)

    def _of(
        self, particle: int, view: RenderRequest, device: torch.device, light: PointLight | None
    ) -> Render:
        s, (h, w) = self.spec, self._side(view.progress) if view.rng is not None else self.canvas
        assert view.camera is not None
        camera, b, one = view.camera.to(device), len(view), self.field(particle)
        ahead = camera.directions(h, w)
        jitter = (
            torch.full((b, h, w), 0.5)
            if view.rng is None
            else torch.rand(b, h, w, generator=view.rng)
        )
        samples = ray_march(camera.eye, ahead, s.bound, s.samples, jitter.to(ahead), one.occupancy)
        if s.importance_samples:
            with torch.no_grad():
                coarse = self.density(samples.points, particle, view.progress)
            samples = importance_resample(
                camera.eye,
                ahead,
                s.bound,
                samples,
                coarse,
                s.importance_samples,
                one.occupancy,
                view.rng,
            )
        density, albedo = self.query(particle, samples.points, view.progress, view.rng)
        weights = samples.render_weights(density)
        wanted = view.rng is None or light is not None or s.orientation_weight > 0
        normal, terms = None, {}
        if wanted:
            seen = weights.detach() > 1e-3
            there = samples.select(seen)
            towards = self.normals(particle, there.points, view.progress)
            normal = F.normalize(there.accumulate(weights[seen], towards), dim=1, eps=1e-6)
            facing = (towards * ahead.reshape(-1, 3)[there.ray_index]).sum(1).clamp_min(0).square()
            terms["orientation"] = (weights[seen].detach() * facing).sum() / samples.num_rays
            if light is not None:
                albedo = light.shade(albedo, samples, towards, seen, h * w)
        colour = samples.accumulate(weights, albedo).view(b, h, w, -1)
        alpha = samples.accumulate(weights, torch.ones_like(weights)[:, None]).view(b, h, w, 1)
        axis = -(ahead * camera.pose[:, None, None, :3, 2]).sum(
            -1
        )  # from the length of a ray to the depth it reaches
        depth = (
            samples.accumulate(weights, samples.distances[:, None]).view(b, h, w)
            * axis
            / alpha[..., 0].clamp_min(1e-6)
        )
        behind = one.background(ahead, view.rng, view.progress)
        image = (colour + (1 - alpha) * behind).permute(0, 3, 1, 2)
        terms |= {"opacity": (alpha.square() + 0.01).sqrt().mean(), "entropy": _entropy(alpha)}
        if s.tv_weight:  # it passes over every feature of the grid: a sixth of a small render
            terms["rough"] = one.encoding.total_variation()
        if (h, w) != self.canvas:
            image = F.interpolate(image, self.canvas, mode="bilinear", align_corners=False)
        shape = lambda x: None if x is None else x.view(b, h, w, 3).permute(0, 3, 1, 2)  # noqa: E731
        return Render(
            image, s.space, alpha.permute(0, 3, 1, 2), depth[:, None], shape(normal), terms
        )

    @torch.no_grad()
    def asset(self, particle: int) -> Surface:
        """The surface that covers as much as is half opaque, by marching tetrahedra; ValueError where nothing is, or there are no
        colours."""
        grid, device = (
            TetGrid(CELLS, self.spec.bound),
            self.field(particle).occupancy.densities.device,
        )
        points = grid.vertices(device)
        self.albedo(points[:1], particle)
        density = torch.cat([self.density(part, particle) for part in points.split(1 << 18)])
        density[grid.boundary_mask().to(device)] = 0  # so that the surface is closed
        vertices, mesh = grid.extract_surface(
            level_set_to_sdf(silhouette_iso_level(density, grid) - density, grid), points
        )
        vertices, mesh = remove_small_components(vertices, mesh, SPECK)
        return Surface(
            vertices, mesh.faces, torch.no_grad()(partial(self.albedo, particle=particle))
        )

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        s = self.spec
        entropy = s.entropy_weight * (
            min(progress / s.entropy_warmup, 1.0) if s.entropy_warmup else 1.0
        )
        weight = {
            "opacity": s.opacity_weight,
            "orientation": s.orientation_weight,
            "entropy": entropy,
            "rough": s.tv_weight,
        }
        return {name: value * weight[name] for name, value in render.terms.items() if weight[name]}

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        if (step + 1) % REFRESH or step < steps * self.spec.occupancy_warmup:
            return
        rng = torch.Generator().manual_seed(self.seed * 104_729 + step)
        for k in range(len(self.particles)):
            self.field(k).occupancy.update(
                partial(self.density, particle=k, progress=step / steps), rng
            )


def _entropy(alpha: Float[Tensor, "b h w 1"]) -> Float[Tensor, ""]:
    """Mean binary entropy of the opacities, in nats: small where they are all 0 or 1."""
    a = alpha.clamp(1e-5, 1 - 1e-5)
    return -(a * a.log() + (1 - a) * (1 - a).log()).mean()


@dataclass(frozen=True)
class NeRF(RepresentationConfig):
    """A radiance field per particle in a box around the origin.

    encoding: what it knows of points. decoder: what the features mean. blob: density that is added from the start. background: what
    is seen past it. shading: light on it while it is trained. half: half the side of the box, in units of space. samples: along the
    box's diagonal. importance: more of them on every ray, where those have weight (NeRF). space: whether images or latents are
    rendered (Latent-NeRF). density: its activation. sharp: multiplies what is learned of the density. noise: deviation of what is
    added to the raw density, drawn anew in training. resolution: shorter side rendered, 0 for the model's; it is enlarged to the
    model's size. late: the same after a share switch of the run; 0 keeps it. rate: peak rate of Adam. opacity, orientation,
    entropy, variation: weights of DreamFusion's opacity and orientation terms, of the entropy of opacities, of the roughness of
    features. rise: share of the run over which that of the entropy rises from nothing, so that thin parts are there before outlines
    harden; 0 has it whole from the start. cells: side of the grid that tells which cells are empty. grace: share of the run before
    it is asked.
    """

    name = "nerf"

    encoding: Encoding = field(default_factory=DenseGridEncoding)
    decoder: Decoder = field(default_factory=IdentityDecoder)
    density_init: DensityInit = field(default_factory=Magic3DDensityInit)
    background: Background = field(default_factory=WorldBackground)
    shading: Shading = field(default_factory=Shading)
    bound: float = 1.2
    samples: int = 80
    importance_samples: int = 0
    space: Literal["image", "latent"] = "image"
    density_activation: Literal["softplus", "exp"] = "softplus"
    density_scale: float = 1.0
    density_noise: float = 0.0
    resolution: int = 0
    resolution_late: int = 0
    resolution_switch: float = 0.5
    lr: float = 0.02
    opacity_weight: float = 0.0
    orientation_weight: float = 0.0
    entropy_weight: float = 0.0
    tv_weight: float = 0.0
    entropy_warmup: float = 0.0
    occupancy_resolution: int = 32
    occupancy_warmup: float = 0.05

    def __post_init__(self) -> None:
        if self.images:
            raise ValueError(
                "images: a field is seen from all sides and begins with no picture; leave it out"
            )
        for name, least in (
            ("samples", 2),
            ("importance_samples", 0),
            ("occupancy_resolution", 2),
            ("resolution", 0),
            ("resolution_late", 0),
            ("density_scale", 0),
            ("density_noise", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("opacity_weight", "orientation_weight", "entropy_weight", "tv_weight"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} is a weight and must not be negative, not {getattr(self, name)}"
                )
        for name in ("resolution_switch", "entropy_warmup", "occupancy_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], not {getattr(self, name)}")
        if self.bound <= 0 or self.lr <= 0:
            raise ValueError(f"bound and lr must be positive, not {self.bound} and {self.lr}")
        if self.space == "latent" and self.shading.diffuse_prob:
            raise ValueError(
                "latents take no light: leave --representation.shading.diffuse-prob at 0, or render images"
            )

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> NeRFParticles:
        return NeRFParticles(self, prior, particles, seed)
