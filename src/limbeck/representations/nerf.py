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
from limbeck.graphics.cameras.views import CameraSampler, Orbit
from limbeck.graphics.fields.background import Background, BackgroundModule
from limbeck.graphics.fields.decoders import Decoder, IdentityDecoder
from limbeck.graphics.fields.density_init import DensityInit, Magic3DDensityInit
from limbeck.graphics.fields.encodings.base import Encoding, EncodingModule
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.geometry.marching_tetrahedra import TetGrid, distance_of, outlined
from limbeck.graphics.geometry.mesh import without_specks
from limbeck.graphics.geometry.solids import Surface
from limbeck.graphics.rendering.occupancy_grid import Occupancy
from limbeck.graphics.rendering.shading import Light, Shading
from limbeck.graphics.rendering.volume import march, march_again, stride
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

    encoded: EncodingModule
    behind: BackgroundModule
    occupancy: Occupancy

    def __init__(self, spec: NeRF, channels: int, generator: torch.Generator):
        super().__init__()
        self.encoded = spec.encoding.build(generator)
        self.decoder = spec.decoder.build(self.encoded.width, generator, 1 + channels)
        self.behind = (
            _Unbounded(channels) if spec.space == "latent" else spec.background.build(generator)
        )
        self.occupancy = Occupancy(
            spec.cells, spec.half, -math.log1p(-FAINT) / stride(spec.half, spec.samples)
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
            ("encoded", s.encoding.rate),
            ("decoder", s.decoder.rate),
            ("behind", s.background.rate),
        ):
            found = [p for one in self.particles for p in one.get_submodule(name).parameters()]
            if found:
                yield {"params": found, "lr": s.rate * rate}

    def one(self, particle: int) -> NeRFParticle:
        """The parts of a particle."""
        found = self.particles[particle]
        assert isinstance(found, NeRFParticle)
        return found

    def inside(self, particle: int, points: Float[Tensor, "n 3"], progress: float = 1.0, rng: torch.Generator | None = None
               ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n c"]]:  # fmt: skip
        """Density, per unit of length, and albedo in [0, 1], or latents, of points of the world."""
        s, one = self.spec, self.one(particle)
        raw = one.decoder(one.encoded(points / s.half, progress))
        height = s.sharp * raw[:, 0] + s.blob(points)
        if s.noise and rng is not None:
            height = height + s.noise * torch.randn(len(points), generator=rng).to(height)
        density = F.softplus(height) if s.density == "softplus" else height.clamp_max(15).exp()
        return density, raw[:, 1:].sigmoid() if s.space == "image" else raw[:, 1:]

    def density(
        self, points: Float[Tensor, "n 3"], particle: int, progress: float = 1.0
    ) -> Float[Tensor, "n"]:
        """Density of points of the world, per unit of length."""
        return self.inside(particle, points, progress)[0]

    def albedo(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n 3"]:
        """Colour of points of the world, without light; ValueError where it is made of latents."""
        if self.spec.space == "latent":
            raise ValueError(
                "a field of latents has no colours of its own: render it, or train one with --representation.space image"
            )
        return self.inside(particle, points)[1]

    def normals(
        self, particle: int, points: Float[Tensor, "n 3"], progress: float
    ) -> Float[Tensor, "n 3"]:
        """- grad density, of unit length, by central differences, so that gradients of what is lit reach the density."""
        e = self.spec.half / 64
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
        short = s.late if progress >= s.switch and s.late else s.resolution
        height, width = self.canvas
        return (
            (short * height // min(self.canvas), short * width // min(self.canvas))
            if short
            else (height, width)
        )

    def render(self, view: RenderRequest) -> Render:
        if view.camera is None:
            raise ValueError("a field is looked at by cameras: --cameras orbit")
        device = self.one(0).occupancy.mean.device
        light = self.spec.shading.draw(view.camera, view)
        rows = {
            k: (view.particle == k).nonzero().squeeze(1)
            for k in sorted(set(view.particle.tolist()))
        }
        parts = [self._of(k, view[at], device, light and light.of(at)) for k, at in rows.items()]
        back = view.particle.argsort(stable=True).argsort().to(device)
        join = lambda name: torch.cat([getattr(part, name) for part in parts])[back]  # noqa: E731
        normal = join("normal") if parts[0].normal is not None else None
        terms = {
            name: torch.stack([part.terms[name] for part in parts]).mean()
            for name in parts[0].terms
        }
        return Render(join("image"), self.spec.space, join("alpha"), join("depth"), normal, terms)

    def _of(
        self, particle: int, view: RenderRequest, device: torch.device, light: Light | None
    ) -> Render:
        s, (h, w) = self.spec, self._side(view.progress) if view.rng is not None else self.canvas
        assert view.camera is not None
        camera, b, one = view.camera.to(device), len(view), self.one(particle)
        ahead = camera.directions(h, w)
        jitter = (
            torch.full((b, h, w), 0.5)
            if view.rng is None
            else torch.rand(b, h, w, generator=view.rng)
        )
        samples = march(camera.eye, ahead, s.half, s.samples, jitter.to(ahead), one.occupancy)
        if s.importance:
            with torch.no_grad():
                coarse = self.density(samples.points, particle, view.progress)
            samples = march_again(
                camera.eye, ahead, s.half, samples, coarse, s.importance, one.occupancy, view.rng
            )
        density, albedo = self.inside(particle, samples.points, view.progress, view.rng)
        weights = samples.weights(density)
        wanted = view.rng is None or light is not None or s.orientation > 0
        normal, terms = None, {}
        if wanted:
            seen = weights.detach() > 1e-3
            there = samples.kept(seen)
            towards = self.normals(particle, there.points, view.progress)
            normal = F.normalize(there.gathered(weights[seen], towards), dim=1, eps=1e-6)
            facing = (towards * ahead.reshape(-1, 3)[there.ray]).sum(1).clamp_min(0).square()
            terms["orientation"] = (weights[seen].detach() * facing).sum() / samples.rays
            if light is not None:
                albedo = light.on(albedo, samples, towards, seen, h * w)
        colour = samples.gathered(weights, albedo).view(b, h, w, -1)
        alpha = samples.gathered(weights, torch.ones_like(weights)[:, None]).view(b, h, w, 1)
        axis = -(ahead * camera.pose[:, None, None, :3, 2]).sum(
            -1
        )  # from the length of a ray to the depth it reaches
        depth = (
            samples.gathered(weights, samples.depth[:, None]).view(b, h, w)
            * axis
            / alpha[..., 0].clamp_min(1e-6)
        )
        behind = one.behind(ahead, view.rng, view.progress)
        image = (colour + (1 - alpha) * behind).permute(0, 3, 1, 2)
        terms |= {"opacity": (alpha.square() + 0.01).sqrt().mean(), "entropy": _entropy(alpha)}
        if s.variation:  # it passes over every feature of the grid: a sixth of a small render
            terms["rough"] = one.encoded.roughness()
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
        grid, device = TetGrid(CELLS, self.spec.half), self.one(particle).occupancy.mean.device
        points = grid.vertices(device)
        self.albedo(points[:1], particle)
        density = torch.cat([self.density(part, particle) for part in points.split(1 << 18)])
        density[grid.border().to(device)] = 0  # so that the surface is closed
        vertices, mesh = grid.surface(distance_of(outlined(density, grid) - density, grid), points)
        vertices, mesh = without_specks(vertices, mesh, SPECK)
        return Surface(
            vertices, mesh.faces, torch.no_grad()(partial(self.albedo, particle=particle))
        )

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        s = self.spec
        entropy = s.entropy * (min(progress / s.rise, 1.0) if s.rise else 1.0)
        weight = {
            "opacity": s.opacity,
            "orientation": s.orientation,
            "entropy": entropy,
            "rough": s.variation,
        }
        return {name: value * weight[name] for name, value in render.terms.items() if weight[name]}

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        if (step + 1) % REFRESH or step < steps * self.spec.grace:
            return
        rng = torch.Generator().manual_seed(self.seed * 104_729 + step)
        for k in range(len(self.particles)):
            self.one(k).occupancy.update(
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
    blob: DensityInit = field(default_factory=Magic3DDensityInit)
    background: Background = field(default_factory=WorldBackground)
    shading: Shading = field(default_factory=Shading)
    half: float = 1.2
    samples: int = 80
    importance: int = 0
    space: Literal["image", "latent"] = "image"
    density: Literal["softplus", "exp"] = "softplus"
    sharp: float = 1.0
    noise: float = 0.0
    resolution: int = 0
    late: int = 0
    switch: float = 0.5
    rate: float = 0.02
    opacity: float = 0.0
    orientation: float = 0.0
    entropy: float = 0.0
    variation: float = 0.0
    rise: float = 0.0
    cells: int = 32
    grace: float = 0.05

    def __post_init__(self) -> None:
        if self.images:
            raise ValueError(
                "images: a field is seen from all sides and begins with no picture; leave it out"
            )
        for name, least in (
            ("samples", 2),
            ("importance", 0),
            ("cells", 2),
            ("resolution", 0),
            ("late", 0),
            ("sharp", 0),
            ("noise", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("opacity", "orientation", "entropy", "variation"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} is a weight and must not be negative, not {getattr(self, name)}"
                )
        for name in ("switch", "rise", "grace"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], not {getattr(self, name)}")
        if self.half <= 0 or self.rate <= 0:
            raise ValueError(f"half and rate must be positive, not {self.half} and {self.rate}")
        if self.space == "latent" and self.shading.lit:
            raise ValueError(
                "latents take no light: leave --representation.shading.lit at 0, or render images"
            )

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> NeRFParticles:
        return NeRFParticles(self, prior, particles, seed)
