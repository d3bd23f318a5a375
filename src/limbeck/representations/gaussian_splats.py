"""3D Gaussians before cameras: 3D Gaussian splatting (Kerbl et al. 2023, arXiv 2308.04079), of a fixed number of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.views import CameraSampler, Orbit
from limbeck.graphics.fields.background import Background
from limbeck.graphics.geometry import solids as solid
from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.geometry.ply import write_ply
from limbeck.graphics.geometry.surface_points import neighbour_distance, surface_points
from limbeck.graphics.rendering.gaussian_compositing import DENSEST
from limbeck.graphics.rendering.gaussian_projection import Ellipsoids, normals, rotations, splat
from limbeck.graphics.rendering.gaussian_relocation import chosen, forget, shared
from limbeck.representations.base import (
    ParticleParameters,
    Render,
    Representation,
    RepresentationConfig,
    SpatialFields,
    match_particles,
)
from limbeck.world.background import WorldBackground

OPAQUE = 0.8  #: opacity of Gaussians on a surface to begin with


class GaussianSplatParticles(ParticleParameters):
    """Each particle: means, logarithms of deviations, quaternions, logits of opacities and of colours of as many Gaussians."""

    moved: Tensor  #: Gaussians relocated so far, of each particle
    pull: (
        Tensor  #: sum of the lengths of the gradients on the screen since they were last relocated
    )

    def __init__(
        self, spec: GaussianSplats, start: dict[str, Tensor], size: tuple[int, int], seed: int
    ):
        super().__init__(start, spec.rates)
        self.spec, self.size, self.seed = spec, size, seed
        self.register_buffer("moved", torch.zeros(len(start["mean"]), dtype=torch.long))
        self.register_buffer("pull", torch.zeros_like(start["opacity"]))
        draw = torch.Generator().manual_seed(seed)
        self.behind = nn.ModuleList(spec.background.build(draw) for _ in start["mean"])
        self._shift: tuple[Tensor, Tensor] | None = (
            None  # of the step under way, never between steps
        )

    def param_groups(self) -> list[dict]:
        behind = list(self.behind.parameters())
        rate = self.spec.rate_colour * self.spec.background.rate
        return [*super().param_groups(), *([{"params": behind, "lr": rate}] if behind else [])]

    def ellipsoids(self, particles: Int[Tensor, "b"]) -> Ellipsoids:
        """The Gaussians of particles in world space."""
        part = {name: self.gather(name, particles) for name in self.parts}
        turn = F.normalize(part["turn"], dim=-1)
        return Ellipsoids(
            part["mean"],
            part["scale"].exp(),
            turn,
            DENSEST * part["opacity"].sigmoid(),
            part["colour"].sigmoid(),
        )

    def render(self, view: RenderRequest) -> Render:
        return self.at(view, *self.size)

    def at(self, view: RenderRequest, height: int, width: int) -> Render:
        """What is seen, drawn at another resolution."""
        if view.camera is None:
            raise ValueError("splats are looked at by cameras: --cameras orbit")
        who, row = view.particle.unique(return_inverse=True)
        each = self.ellipsoids(who)
        device = each.mean.device
        row, camera = row.to(device), view.camera.to(device)
        seen = Ellipsoids(*(gather_rows(part, row) for part in vars(each).values()))
        shift = None
        if self.spec.towards == "gradient" and view.rng is not None:
            shift = torch.zeros_like(seen.mean[..., :2]).requires_grad_()
            self._shift = shift, view.particle
        out = splat(seen, camera, height, width, shift, self.spec.sharp)
        image = out.colour + (1 - out.alpha) * self._behind(view, camera, height, width).to(
            out.colour
        )
        facing = (
            normals(out.depth.detach(), out.alpha.detach(), camera) if view.rng is None else None
        )
        terms = {"opacity": each.opacity.mean(1).sum(), "scale": each.scale.mean((1, 2)).sum()}
        return Render(image, "image", out.alpha, out.depth, facing, terms)

    def _behind(
        self, view: RenderRequest, camera: Camera, height: int, width: int
    ) -> Float[Tensor, "b 3 h w"]:
        """The background of every row, which each particle has of its own."""
        ahead = camera.directions(height, width)
        rows: dict[int, Tensor] = {}
        for particle in dict.fromkeys(view.particle.tolist()):
            own = (view.particle == particle).nonzero().squeeze(1).tolist()
            rows |= dict(
                zip(own, self.behind[particle](ahead[own], view.rng, view.progress), strict=True)
            )
        return torch.stack([rows[row] for row in range(len(view))]).permute(0, 3, 1, 2)

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        weights = {"opacity": self.spec.sparse, "scale": self.spec.small}
        return {name: weight * render.terms[name] for name, weight in weights.items() if weight}

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        s = self.spec
        self._add_pull()
        for i, (mean, scale) in enumerate(
            zip(self.parts["mean"], self.parts["scale"], strict=True)
        ):
            if mean.grad is None:  # not in view
                continue
            mean.mul_((s.bound / mean.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1))
            scale.clamp_(max=math.log(s.largest))
            if s.every and (step + 1) % s.every == 0 and (step + 1) <= s.until * steps:
                self._relocate(
                    i,
                    torch.Generator().manual_seed((self.seed * 1009 + i) * 1_000_003 + step),
                    optimizer,
                )

    def _add_pull(self) -> None:
        shift, particle = self._shift or (None, None)
        grad = None if shift is None else shift.grad
        if grad is not None and particle is not None:
            self.pull.index_add_(0, particle.to(self.pull.device), grad.norm(dim=-1))
        self._shift = None

    def _relocate(self, i: int, rng: torch.Generator, optimizer: torch.optim.Optimizer) -> None:
        s, part = self.spec, {name: self.parts[name][i] for name in self.parts}
        opacity = DENSEST * part["opacity"].sigmoid()
        weight = opacity if s.towards == "opacity" else self.pull[i]
        dead, onto = chosen(weight, opacity < s.dead, rng)
        self.pull[i] = 0
        if not len(dead):
            return
        drawn = torch.randn(len(dead), 3, generator=rng)
        self.moved[i] += len(dead)
        home = onto.unique()
        number = 1 + torch.bincount(onto, minlength=len(opacity))[home]
        home, number, dead, onto, drawn = (
            x.to(opacity.device) for x in (home, number, dead, onto, drawn)
        )
        new, factor = shared(opacity[home], number)
        part["opacity"][home] = (new / DENSEST).clamp(1e-6, 1 - 1e-6).logit()
        part["scale"][home] += factor.log()[:, None]
        for tensor in part.values():
            tensor[dead] = tensor[onto]
        own = (
            rotations(F.normalize(part["turn"][dead], dim=-1)) * part["scale"][dead].exp()[:, None]
        )
        part["mean"][dead] += s.kick * torch.einsum("nij,nj->ni", own, drawn)
        forget(optimizer, part.values(), torch.cat([dead, home]))

    def initialize_from(
        self, other: Representation, particles: int, source: Path, seed: int
    ) -> None:
        _initialize(self, other, particles, source, seed)

    @torch.no_grad()
    def asset(self, particle: int) -> solid.Splats:
        each = self.ellipsoids(torch.tensor([particle]))
        return solid.Splats(*(part[0].detach().float().cpu() for part in vars(each).values()))

    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Every particle as a .ply in the layout of 3D Gaussian splatting."""
        for i, name in enumerate(names):
            write_ply(folder / f"{name}.ply", self.asset(i))


@dataclass(frozen=True)
class GaussianSplats(RepresentationConfig):
    """3D Gaussians, as many from the first step to the last; those that have faded move to where others are.

    The start fills a ball around the origin with round ones of nearly one grey. count: Gaussians per particle. radius: of the ball.
    spacing: their deviation in units of the distance of neighbours. opacity: at the start, below 0.99. spread: deviation of the
    colour logits at the start. start: folder or checkpoint of a run of a field, a mesh or splats to begin with instead, with one
    particle, one per prompt or one for each. bound: means stay within this distance of the origin. largest: limit of a deviation.
    sharp: Gaussians smaller than a pixel fade instead of growing to a pixel's size (Mip-Splatting). background: what is seen past
    them. every: steps between relocations, 0 for none. until: share of the run after which there are none. dead: opacity below
    which a Gaussian is moved. towards: the living draw the dead by opacity (3DGS-MCMC) or by gradient on the screen. kick: how far
    from its new home one is put, in deviations. sparse: weight of the mean opacity. small: weight of the mean deviation. rate_mean:
    peak rate in units of space. rate_scale: peak rate of logarithms. rate_turn: peak rate of quaternions. rate_opacity: peak rate
    of logits. rate_colour: peak rate of logits.
    """

    count: int = 3000
    radius: float = 0.7
    spacing: float = 0.6
    opacity: float = 0.3
    spread: float = 0.1
    bound: float = 1.3
    largest: float = 0.1
    sharp: bool = False
    init_from: Path | None = None
    background: Background = field(default_factory=WorldBackground)
    every: int = 10
    until: float = 0.8
    dead: float = 0.05
    towards: Literal["opacity", "gradient"] = "opacity"
    kick: float = 0.5
    sparse: float = 0.0
    small: float = 0.0
    rate_mean: float = 0.005
    rate_scale: float = 0.03
    rate_turn: float = 0.03
    rate_opacity: float = 0.1
    rate_colour: float = 0.05

    def __post_init__(self) -> None:
        if self.images:
            raise ValueError(
                "images: splats are seen from all sides and begin with no picture; leave it out"
            )
        if self.count < 1 or min(self.radius, self.spacing, self.bound, self.largest) <= 0:
            raise ValueError(
                f"count must be at least 1; radius, spacing, bound and largest positive: {self}"
            )
        if min(self.spread, self.every, self.kick, self.sparse, self.small) < 0:
            raise ValueError(f"spread, every, kick, sparse and small must not be negative: {self}")
        if not 0 <= self.until <= 1:
            raise ValueError(f"until is a share in [0, 1], not {self.until}")
        for name in ("opacity", "dead"):
            if not 0 < getattr(self, name) < DENSEST:
                raise ValueError(f"{name} must be in (0, {DENSEST}), not {getattr(self, name)}")
        if min(self.rates.values()) <= 0:
            raise ValueError(f"every rate must be positive: {self}")

    @property
    def uninitialized(self) -> GaussianSplats:
        return replace(self, init_from=None)

    @property
    def cameras(self) -> CameraSampler:
        return Orbit(per_particle=4, elevation=(-2.0, 65.0), overhead=55.0)

    @property
    def rates(self) -> dict[str, float]:
        """Peak rates by the names of the parts."""
        return {
            "mean": self.rate_mean, "scale": self.rate_scale, "turn": self.rate_turn, "opacity": self.rate_opacity,
            "colour": self.rate_colour,
        }  # fmt: skip

    def _start(self, particles: int, seed: int) -> dict[str, Tensor]:
        made = []
        for i in range(particles):
            rng = torch.Generator().manual_seed(seed * 7_919 + i)
            towards = F.normalize(torch.randn(self.count, 3, generator=rng), dim=1)
            far = self.radius * torch.rand(self.count, 1, generator=rng) ** (1 / 3)
            made.append((towards * far, self.spread * torch.randn(self.count, 3, generator=rng)))
        apart = self.radius * (4 * math.pi / 3 / self.count) ** (1 / 3)
        return {
            "mean": torch.stack([mean for mean, _ in made]),
            "scale": torch.full(
                (particles, self.count, 3), math.log(min(self.spacing * apart, self.largest))
            ),
            "turn": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(particles, self.count, 1),
            "opacity": torch.tensor(self.opacity / DENSEST).logit().repeat(particles, self.count),
            "colour": torch.stack([colour for _, colour in made]),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> GaussianSplatParticles:
        return GaussianSplatParticles(
            self, self._start(particles, seed), self.canvas_size(prior), seed
        ).to(prior.device)


@torch.no_grad()
def _initialize(
    made: GaussianSplatParticles, other: Representation, count: int, start: Path, seed: int
) -> None:
    """``made`` as what another run made: its very Gaussians where that are splats, else opaque ones on the surface of its density,
    in its colours. ValueError where the run made nothing solid, or another number of Gaussians."""
    own = made.parts["mean"]
    for ours, theirs in enumerate(match_particles(count, len(own), start)):
        if isinstance(other, GaussianSplatParticles):
            if other.spec.count != made.spec.count:
                raise ValueError(
                    f"{start} has {other.spec.count} Gaussians, not {made.spec.count}: say --representation.count"
                )
            for name, part in made.parts.items():
                part[ours].copy_(other.parts[name][theirs])
            continue
        if not isinstance(other, SpatialFields):
            raise ValueError(
                f"{start} holds a run of {type(other).__name__}, which has neither density nor colours in space"
            )
        rng = torch.Generator().manual_seed(seed * 7_919 + ours)
        density = partial(other.density, particle=theirs)
        points = surface_points(density, made.spec.count, made.spec.bound, rng, own[ours].device)
        own[ours].copy_(points)
        size = (made.spec.spacing * neighbour_distance(points)).clamp_max(made.spec.largest)
        made.parts["scale"][ours].copy_(size.log()[:, None].expand(-1, 3))
        made.parts["opacity"][ours].fill_(math.log(OPAQUE / (DENSEST - OPAQUE)))
        made.parts["colour"][ours].copy_(other.albedo(points, theirs).clamp(0.02, 0.98).logit())
    made.init_message = f"begins with {start}"
