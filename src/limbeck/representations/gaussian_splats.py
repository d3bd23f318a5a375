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
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.graphics.fields.background import Background
from limbeck.graphics.geometry import assets as solid
from limbeck.graphics.geometry.gaussian_ply import write_gaussian_ply
from limbeck.graphics.geometry.indexing import gather_rows
from limbeck.graphics.geometry.surface_sampling import mean_neighbor_distance, sample_surface_points
from limbeck.graphics.rendering.gaussian_compositing import MAX_OPACITY
from limbeck.graphics.rendering.gaussian_projection import (
    GaussianBatch,
    depth_to_normals,
    quats_to_rotations,
    render_gaussians,
)
from limbeck.graphics.rendering.gaussian_relocation import (
    choose_relocations,
    reset_optimizer_state,
    split_opacity_and_scale,
)
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

    num_relocated: Tensor  #: Gaussians relocated so far, of each particle
    screen_grad: (
        Tensor  #: sum of the lengths of the gradients on the screen since they were last relocated
    )

    def __init__(
        self, spec: GaussianSplats, start: dict[str, Tensor], size: tuple[int, int], seed: int
    ):
        super().__init__(start, spec.lrs)
        self.spec, self.size, self.seed = spec, size, seed
        self.register_buffer("num_relocated", torch.zeros(len(start["mean"]), dtype=torch.long))
        self.register_buffer("screen_grad", torch.zeros_like(start["opacity"]))
        draw = torch.Generator().manual_seed(seed)
        self.behind = nn.ModuleList(spec.background.build(draw) for _ in start["mean"])
        self._screen_offset: tuple[Tensor, Tensor] | None = (
            None  # of the step under way, never between steps
        )

    def param_groups(self) -> list[dict]:
        background = list(self.behind.parameters())
        rate = self.spec.colors_lr * self.spec.background.lr_scale
        return [
            *super().param_groups(),
            *([{"params": background, "lr": rate}] if background else []),
        ]

    def ellipsoids(self, particles: Int[Tensor, "b"]) -> GaussianBatch:
        """The Gaussians of particles in world space."""
        part = {name: self.gather(name, particles) for name in self.params}
        turn = F.normalize(part["turn"], dim=-1)
        return GaussianBatch(
            part["mean"],
            part["scale"].exp(),
            turn,
            MAX_OPACITY * part["opacity"].sigmoid(),
            part["colour"].sigmoid(),
        )

    def render(self, view: RenderRequest) -> Render:
        return self.render_at(view, *self.size)

    def render_at(self, view: RenderRequest, height: int, width: int) -> Render:
        """What is seen, drawn at another resolution."""
        if view.camera is None:
            raise ValueError("splats are looked at by cameras: --cameras orbit")
        who, row = view.particle.unique(return_inverse=True)
        each = self.ellipsoids(who)
        device = each.means.device
        row, camera = row.to(device), view.camera.to(device)
        seen = GaussianBatch(*(gather_rows(part, row) for part in vars(each).values()))
        shift = None
        if self.spec.relocation_weight == "gradient" and view.rng is not None:
            shift = torch.zeros_like(seen.means[..., :2]).requires_grad_()
            self._screen_offset = shift, view.particle
        out = render_gaussians(seen, camera, height, width, shift, self.spec.antialiased)
        image = out.color + (1 - out.alpha) * self._behind(view, camera, height, width).to(
            out.color
        )
        facing = (
            depth_to_normals(out.depth.detach(), out.alpha.detach(), camera)
            if view.rng is None
            else None
        )
        terms = {"opacity": each.opacities.mean(1).sum(), "scale": each.scales.mean((1, 2)).sum()}
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
        weights = {"opacity": self.spec.opacity_reg, "scale": self.spec.scale_reg}
        return {name: weight * render.terms[name] for name, weight in weights.items() if weight}

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        s = self.spec
        self._add_pull()
        for i, (mean, scale) in enumerate(
            zip(self.params["mean"], self.params["scale"], strict=True)
        ):
            if mean.grad is None:  # not in view
                continue
            mean.mul_((s.bound / mean.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1))
            scale.clamp_(max=math.log(s.max_scale))
            if (
                s.refine_every
                and (step + 1) % s.refine_every == 0
                and (step + 1) <= s.refine_stop * steps
            ):
                self._relocate(
                    i,
                    torch.Generator().manual_seed((self.seed * 1009 + i) * 1_000_003 + step),
                    optimizer,
                )

    def _add_pull(self) -> None:
        shift, particle = self._screen_offset or (None, None)
        grad = None if shift is None else shift.grad
        if grad is not None and particle is not None:
            self.screen_grad.index_add_(0, particle.to(self.screen_grad.device), grad.norm(dim=-1))
        self._screen_offset = None

    def _relocate(self, i: int, rng: torch.Generator, optimizer: torch.optim.Optimizer) -> None:
        s, part = self.spec, {name: self.params[name][i] for name in self.params}
        opacity = MAX_OPACITY * part["opacity"].sigmoid()
        weight = opacity if s.relocation_weight == "opacity" else self.screen_grad[i]
        dead, onto = choose_relocations(weight, opacity < s.min_opacity, rng)
        self.screen_grad[i] = 0
        if not len(dead):
            return
        drawn = torch.randn(len(dead), 3, generator=rng)
        self.num_relocated[i] += len(dead)
        home = onto.unique()
        number = 1 + torch.bincount(onto, minlength=len(opacity))[home]
        home, number, dead, onto, drawn = (
            x.to(opacity.device) for x in (home, number, dead, onto, drawn)
        )
        new, factor = split_opacity_and_scale(opacity[home], number)
        part["opacity"][home] = (new / MAX_OPACITY).clamp(1e-6, 1 - 1e-6).logit()
        part["scale"][home] += factor.log()[:, None]
        for tensor in part.values():
            tensor[dead] = tensor[onto]
        own = (
            quats_to_rotations(F.normalize(part["turn"][dead], dim=-1))
            * part["scale"][dead].exp()[:, None]
        )
        part["mean"][dead] += s.relocation_noise * torch.einsum("nij,nj->ni", own, drawn)
        reset_optimizer_state(optimizer, part.values(), torch.cat([dead, home]))

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
            write_gaussian_ply(folder / f"{name}.ply", self.asset(i))


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

    num_gaussians: int = 3000
    init_radius: float = 0.7
    init_scale: float = 0.6
    init_opacity: float = 0.3
    init_color_std: float = 0.1
    bound: float = 1.3
    max_scale: float = 0.1
    antialiased: bool = False
    init_from: Path | None = None
    background: Background = field(default_factory=WorldBackground)
    refine_every: int = 10
    refine_stop: float = 0.8
    min_opacity: float = 0.05
    relocation_weight: Literal["opacity", "gradient"] = "opacity"
    relocation_noise: float = 0.5
    opacity_reg: float = 0.0
    scale_reg: float = 0.0
    means_lr: float = 0.005
    scales_lr: float = 0.03
    quats_lr: float = 0.03
    opacities_lr: float = 0.1
    colors_lr: float = 0.05

    def __post_init__(self) -> None:
        if self.images:
            raise ValueError(
                "images: splats are seen from all sides and begin with no picture; leave it out"
            )
        if (
            self.num_gaussians < 1
            or min(self.init_radius, self.init_scale, self.bound, self.max_scale) <= 0
        ):
            raise ValueError(
                f"count must be at least 1; radius, spacing, bound and largest positive: {self}"
            )
        if (
            min(
                self.init_color_std,
                self.refine_every,
                self.relocation_noise,
                self.opacity_reg,
                self.scale_reg,
            )
            < 0
        ):
            raise ValueError(f"spread, every, kick, sparse and small must not be negative: {self}")
        if not 0 <= self.refine_stop <= 1:
            raise ValueError(f"until is a share in [0, 1], not {self.refine_stop}")
        for name in ("init_opacity", "min_opacity"):
            if not 0 < getattr(self, name) < MAX_OPACITY:
                raise ValueError(f"{name} must be in (0, {MAX_OPACITY}), not {getattr(self, name)}")
        if min(self.lrs.values()) <= 0:
            raise ValueError(f"every rate must be positive: {self}")

    @property
    def uninitialized(self) -> GaussianSplats:
        return replace(self, init_from=None)

    @property
    def cameras(self) -> CameraSampler:
        return Orbit(per_particle=4, elevation_range=(-2.0, 65.0), overhead_threshold=55.0)

    @property
    def lrs(self) -> dict[str, float]:
        """Peak rates by the names of the parts."""
        return {
            "mean": self.means_lr, "scale": self.scales_lr, "turn": self.quats_lr, "opacity": self.opacities_lr,
            "colour": self.colors_lr,
        }  # fmt: skip

    def _initial_params(self, particles: int, seed: int) -> dict[str, Tensor]:
        made = []
        for i in range(particles):
            rng = torch.Generator().manual_seed(seed * 7_919 + i)
            towards = F.normalize(torch.randn(self.num_gaussians, 3, generator=rng), dim=1)
            far = self.init_radius * torch.rand(self.num_gaussians, 1, generator=rng) ** (1 / 3)
            made.append(
                (
                    towards * far,
                    self.init_color_std * torch.randn(self.num_gaussians, 3, generator=rng),
                )
            )
        apart = self.init_radius * (4 * math.pi / 3 / self.num_gaussians) ** (1 / 3)
        return {
            "mean": torch.stack([mean for mean, _ in made]),
            "scale": torch.full(
                (particles, self.num_gaussians, 3),
                math.log(min(self.init_scale * apart, self.max_scale)),
            ),
            "turn": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(particles, self.num_gaussians, 1),
            "opacity": torch.tensor(self.init_opacity / MAX_OPACITY)
            .logit()
            .repeat(particles, self.num_gaussians),
            "colour": torch.stack([colour for _, colour in made]),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> GaussianSplatParticles:
        return GaussianSplatParticles(
            self, self._initial_params(particles, seed), self.canvas_size(prior), seed
        ).to(prior.device)


@torch.no_grad()
def _initialize(
    made: GaussianSplatParticles, other: Representation, count: int, start: Path, seed: int
) -> None:
    """``made`` as what another run made: its very Gaussians where that are splats, else opaque ones on the surface of its density,
    in its colours. ValueError where the run made nothing solid, or another number of Gaussians."""
    own = made.params["mean"]
    for ours, theirs in enumerate(match_particles(count, len(own), start)):
        if isinstance(other, GaussianSplatParticles):
            if other.spec.num_gaussians != made.spec.num_gaussians:
                raise ValueError(
                    f"{start} has {other.spec.num_gaussians} Gaussians, not {made.spec.num_gaussians}: say --representation.num-gaussians"
                )
            for name, part in made.params.items():
                part[ours].copy_(other.params[name][theirs])
            continue
        if not isinstance(other, SpatialFields):
            raise ValueError(
                f"{start} holds a run of {type(other).__name__}, which has neither density nor colours in space"
            )
        rng = torch.Generator().manual_seed(seed * 7_919 + ours)
        density = partial(other.density, particle=theirs)
        points = sample_surface_points(
            density, made.spec.num_gaussians, made.spec.bound, rng, own[ours].device
        )
        own[ours].copy_(points)
        size = (made.spec.init_scale * mean_neighbor_distance(points)).clamp_max(
            made.spec.max_scale
        )
        made.params["scale"][ours].copy_(size.log()[:, None].expand(-1, 3))
        made.params["opacity"][ours].fill_(math.log(OPAQUE / (MAX_OPACITY - OPAQUE)))
        made.params["colour"][ours].copy_(other.albedo(points, theirs).clamp(0.02, 0.98).logit())
    made.init_message = f"begins with {start}"
