"""3D Gaussian splatting with a fixed number of Gaussians.

References:
    Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023,
    arXiv 2308.04079.
    Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, NeurIPS 2024,
    arXiv 2404.09591.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.config.ranges import (
    check_minimums,
    check_not_negative,
    check_positive,
    refuse_given,
)
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.graphics.fields.background import Background
from limbeck.graphics.geometry.assets import Splats
from limbeck.graphics.geometry.gaussian_ply import write_gaussian_ply
from limbeck.graphics.geometry.indexing import gather_rows
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
from limbeck.representations.backgrounds import render_backgrounds
from limbeck.representations.base import (
    Render,
    Representation,
    RepresentationConfig,
    SpatialFields,
    match_particles,
)
from limbeck.representations.particle_parameters import ParticleParameters
from limbeck.representations.splat_init import (
    field_surface,
    fit_to_renders,
    mesh_surface,
    surface_splats,
)
from limbeck.representations.surface import SurfaceParticles
from limbeck.system.random import RowRandom
from limbeck.world.background import WorldBackground

_ROUND = 1e-5  #: Largest difference of the logarithms of the scales of a Gaussian that is round.


class GaussianSplatParticles(ParticleParameters):
    """Particles of K Gaussians each.

    Args:
        config: their options.
        initial: initial ``means`` ``[N, K, 3]``, ``scales`` ``[N, K, 3]`` (logarithms), ``quats``
            ``[N, K, 4]``, ``opacities`` ``[N, K]`` and ``colors`` ``[N, K, 3]`` (logits).
        size: height and width of a render in pixels.
        seed: seed of the backgrounds and of relocation.

    Attributes:
        num_relocated: number of relocations so far, ``[N]``.
        screen_grad: norms of the gradients of the projected means, summed since the last
            relocation, ``[N, K]``.
    """

    num_relocated: Tensor
    screen_grad: Tensor

    def __init__(
        self, config: GaussianSplats, initial: dict[str, Tensor], size: tuple[int, int], seed: int
    ):
        super().__init__(initial, config.lrs)
        self.config, self.size, self.seed = config, size, seed
        particles = len(initial["means"])
        self.register_buffer("num_relocated", torch.zeros(particles, dtype=torch.long))
        self.register_buffer("screen_grad", torch.zeros_like(initial["opacities"]))
        rngs = (row.generator("background") for row in RowRandom.initial(seed, particles).split())
        self.backgrounds = nn.ModuleList(config.background.build(rng) for rng in rngs)
        # zeros added to the projected means of this step, for their gradient, and the particles
        self._screen_offset: tuple[Tensor, Tensor] | None = None

    def param_groups(self) -> list[dict]:
        groups = super().param_groups()
        backgrounds = list(self.backgrounds.parameters())
        if backgrounds:
            lr = self.config.colors_lr * self.config.background.lr_scale
            groups.append({"params": backgrounds, "lr": lr})
        return groups

    def gaussians(self, particle: Int[Tensor, "b"]) -> GaussianBatch:
        """Return the Gaussians in world space.

        Args:
            particle: particle of each row.
        """
        params = {name: self.gather(name, particle) for name in self.params}
        quats, scales = F.normalize(params["quats"], dim=-1), params["scales"]
        # Adam would turn the rounding noise of gradients that are 0 into steps of full length
        is_round = scales.amax(-1, keepdim=True) - scales.amin(-1, keepdim=True) < _ROUND
        return GaussianBatch(
            params["means"],
            scales.exp(),
            torch.where(is_round, quats.detach(), quats),
            MAX_OPACITY * params["opacities"].sigmoid(),
            params["colors"].sigmoid(),
        )

    def render(self, request: RenderRequest) -> Render:
        return self.render_at(request, *(request.size or self.size))

    def render_at(self, request: RenderRequest, height: int, width: int) -> Render:
        """Render at any resolution.

        Args:
            request: particles and cameras.
            height: height in pixels.
            width: width in pixels.
        """
        if request.camera is None:
            raise ValueError("Gaussian splats need cameras: --cameras orbit")
        particles, row = request.particle.unique(return_inverse=True)
        gaussians = self.gaussians(particles)
        device = gaussians.means.device
        row, camera = row.to(device), request.camera.to(device)
        batch = GaussianBatch(*(gather_rows(values, row) for values in vars(gaussians).values()))
        offset = None
        if self.config.relocation_weight == "gradient" and request.rng is not None:
            offset = torch.zeros_like(batch.means[..., :2]).requires_grad_()
            self._screen_offset = offset, request.particle
        antialiased = self.config.antialiased
        out = render_gaussians(batch, camera, height, width, offset, antialiased)
        directions = camera.directions(height, width)
        background = render_backgrounds(self.backgrounds, directions, request).to(out.color)
        image = out.color + (1 - out.alpha) * background
        normal = None
        if request.rng is None:
            normal = depth_to_normals(out.depth.detach(), out.alpha.detach(), camera)
        # sums over particles, so that a particle's gradient does not depend on the others
        terms = {
            "opacity": gaussians.opacities.mean(1).sum(),
            "scale": gaussians.scales.mean((1, 2)).sum(),
        }
        return Render(image, "image", out.alpha, out.depth, normal, terms, background)

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        weights = {"opacity": self.config.opacity_reg, "scale": self.config.scale_reg}
        return {name: weight * render.terms[name] for name, weight in weights.items() if weight}

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        c = self.config
        self._accumulate_screen_grad()
        due = bool(c.refine_every) and (step + 1) % c.refine_every == 0
        due = due and step + 1 <= c.refine_stop * steps
        means_and_scales = zip(self.params["means"], self.params["scales"], strict=True)
        for i, (means, scales) in enumerate(means_and_scales):
            if means.grad is None:  # not rendered in this step
                continue
            distance = means.norm(dim=1, keepdim=True).clamp_min(1e-12)
            means.mul_((c.bound / distance).clamp_max(1))
            scales.clamp_(max=math.log(c.max_scale))
            if due:
                row = RowRandom.of_step(self.seed, step, torch.tensor([i]))
                self._relocate(i, row.generator("relocation"), optimizer)

    def _accumulate_screen_grad(self) -> None:
        if self._screen_offset is not None:
            offset, particle = self._screen_offset
            if offset.grad is not None:
                index = particle.to(self.screen_grad.device)
                self.screen_grad.index_add_(0, index, offset.grad.norm(dim=-1))
        self._screen_offset = None

    def _relocate(self, i: int, rng: torch.Generator, optimizer: torch.optim.Optimizer) -> None:
        """Move the Gaussians of particle i that are nearly transparent to others (eq. 9)."""
        c, params = self.config, {name: tensors[i] for name, tensors in self.params.items()}
        opacities = MAX_OPACITY * params["opacities"].sigmoid()
        weights = opacities if c.relocation_weight == "opacity" else self.screen_grad[i]
        dead, target = choose_relocations(weights, opacities < c.min_opacity, rng)
        self.screen_grad[i] = 0
        if not len(dead):
            return
        noise = torch.randn(len(dead), 3, generator=rng)
        self.num_relocated[i] += len(dead)
        distinct = target.unique()
        counts = 1 + torch.bincount(target, minlength=len(opacities))[distinct]
        distinct, counts, dead, target, noise = (
            x.to(opacities.device) for x in (distinct, counts, dead, target, noise)
        )
        opacity, scale_factor = split_opacity_and_scale(opacities[distinct], counts)
        params["opacities"][distinct] = (opacity / MAX_OPACITY).clamp(1e-6, 1 - 1e-6).logit()
        params["scales"][distinct] += scale_factor.log()[:, None]
        for tensor in params.values():
            tensor[dead] = tensor[target]
        rotations = quats_to_rotations(F.normalize(params["quats"][dead], dim=-1))
        axes = rotations * params["scales"][dead].exp()[:, None]
        params["means"][dead] += c.relocation_noise * torch.einsum("nij,nj->ni", axes, noise)
        reset_optimizer_state(optimizer, params.values(), torch.cat([dead, distinct]))

    @torch.no_grad()
    def initialize_from(
        self, other: Representation, particles: int, source: Path, seed: int
    ) -> None:
        """See ``Representation``: copies Gaussians, or samples the surface of a field or mesh."""
        num_gaussians, fitted = self.config.num_gaussians, ""
        rows = RowRandom.initial(seed, len(self.params["means"])).split()
        for i, j in enumerate(match_particles(particles, len(self.params["means"]), source)):
            if isinstance(other, GaussianSplatParticles):
                if other.config.num_gaussians != num_gaussians:
                    raise ValueError(
                        f"{source} has {other.config.num_gaussians} Gaussians, not "
                        f"{num_gaussians}: set --representation.num-gaussians"
                    )
                for name, tensors in self.params.items():
                    tensors[i].copy_(other.params[name][j])
            elif isinstance(other, SpatialFields | SurfaceParticles):
                fitted = self._initialize_on_surface(i, other, j, rows[i].generator("surface"))
            else:
                raise ValueError(
                    f"{source} is a run of {type(other).__name__}, which has no density and "
                    "colors in space"
                )
        self.init_message = f"initialized from {source}{fitted}"

    def _initialize_on_surface(
        self, i: int, other: Representation, j: int, rng: torch.Generator
    ) -> str:
        """Place Gaussians of particle i on the surface of particle j and fit them to its renders.

        Returns:
            What the message says of it.
        """
        c, device = self.config, self.params["means"][i].device
        if isinstance(other, SurfaceParticles):
            points, colors = mesh_surface(other.asset(j), c.num_gaussians, rng)
        else:
            assert isinstance(other, SpatialFields)
            points, colors = field_surface(other, j, c.num_gaussians, c.bound, rng, device)
        initial = surface_splats(points, colors, c.init_scale)
        initial["scales"] = initial["scales"].clamp_max(math.log(c.max_scale))
        for name, values in initial.items():
            self.params[name][i].copy_(values)
        if not c.init_fit_steps:
            return ""
        psnr = fit_to_renders(self, i, other, j, self.size, c.bound, c.init_fit_steps, rng)
        self.num_relocated[i] = 0
        return f", color PSNR {psnr:.1f} dB after {c.init_fit_steps} steps of fitting"

    @torch.no_grad()
    def asset(self, particle: int) -> Splats:
        gaussians = self.gaussians(torch.tensor([particle]))
        return Splats(*(values[0].detach().float().cpu() for values in vars(gaussians).values()))

    def save(self, folder: Path, names: Sequence[str]) -> None:
        """Write each particle as .ply in the layout of the official 3D Gaussian splatting."""
        for i, name in enumerate(names):
            write_gaussian_ply(folder / f"{name}.ply", self.asset(i))


@dataclass(frozen=True)
class GaussianSplats(RepresentationConfig):
    """A fixed number of 3D Gaussians; those that become transparent are relocated to others.

    Initially, round Gaussians near mid gray fill a ball around the origin.

    Attributes:
        num_gaussians: Gaussians per particle, constant during the run.
        init_radius: radius of the initial ball.
        init_scale: initial standard deviation, as a multiple of the distance of neighbors.
        init_opacity: initial opacity, in (0, 0.99).
        init_color_std: standard deviation of the initial color logits.
        bound: largest distance of a mean from the origin.
        max_scale: largest standard deviation.
        antialiased: Mip-Splatting: Gaussians smaller than a pixel fade, rather than grow to a pixel
            (arXiv 2311.16493). Viewers of .ply files do not support it.
        init_from: run folder or checkpoint of a NeRF, DMTet, mesh or Gaussian splats to start from,
            with one particle, one per prompt, or one per particle. None: the ball.
        init_fit_steps: steps of fitting to unlit renders of what ``init_from`` holds, after the
            Gaussians were placed on its surface; of splats they are copies. 0: none.
        background: background behind the Gaussians.
        refine_every: steps between relocations. 0: none.
        refine_stop: fraction of the run after which there are no relocations.
        min_opacity: Gaussians below this opacity are relocated.
        relocation_weight: what makes a Gaussian a likely target of relocation: its opacity
            (3DGS-MCMC), or the gradient of its mean on the screen (Kerbl et al.).
        relocation_noise: standard deviation of the distance from the target, in units of the
            target's scales.
        opacity_reg: weight of the mean opacity in the loss.
        scale_reg: weight of the mean standard deviation in the loss.
        means_lr: peak learning rate of the means, in world units.
        scales_lr: peak learning rate of the logarithms of the standard deviations.
        quats_lr: peak learning rate of the quaternions.
        opacities_lr: peak learning rate of the opacity logits.
        colors_lr: peak learning rate of the color logits.
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
    init_fit_steps: int = 100
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
                "Gaussian splats cannot start from images: leave out images, or use init_from"
            )
        check_minimums(self, num_gaussians=1)
        lrs = ("means_lr", "scales_lr", "quats_lr", "opacities_lr", "colors_lr")
        check_positive(self, "init_radius", "init_scale", "bound", "max_scale", *lrs)
        regs = ("opacity_reg", "scale_reg")
        check_not_negative(
            self, "init_color_std", "init_fit_steps", "refine_every", "relocation_noise", *regs
        )
        if not 0 <= self.refine_stop <= 1:
            raise ValueError(f"refine_stop must be in [0, 1], not {self.refine_stop}")
        for name in ("init_opacity", "min_opacity"):
            if not 0 < getattr(self, name) < MAX_OPACITY:
                raise ValueError(f"{name} must be in (0, {MAX_OPACITY}), not {getattr(self, name)}")
        # presets set init_radius, init_opacity, refine_stop and min_opacity: see idle_options
        if self.init_from is not None:
            refuse_given(self, "with init_from: leave it out", "init_color_std")
        if not self.refine_every:
            cause = "with refine_every 0, which relocates none: leave it out"
            refuse_given(self, cause, "relocation_weight", "relocation_noise")

    @property
    def idle_options(self) -> Mapping[str, str]:
        idle = {}
        if self.init_from is None:
            idle["init_fit_steps"] = "without init_from"
        else:
            idle |= dict.fromkeys(("init_radius", "init_opacity"), "with init_from")
        if not self.refine_every:
            cause = "with refine_every 0, which relocates none"
            idle |= dict.fromkeys(("refine_stop", "min_opacity"), cause)
        return idle

    @property
    def optimizes_normals(self) -> bool:
        return False  # they are those of the depths, without gradient

    @property
    def uninitialized(self) -> GaussianSplats:
        return replace(self, init_from=None)

    @property
    def cameras(self) -> CameraSampler:
        return Orbit(per_particle=4, elevation_range=(-2.0, 65.0), overhead_threshold=55.0)

    @property
    def lrs(self) -> dict[str, float]:
        """Peak learning rates by parameter."""
        return {
            "means": self.means_lr,
            "scales": self.scales_lr,
            "quats": self.quats_lr,
            "opacities": self.opacities_lr,
            "colors": self.colors_lr,
        }

    def _initial_params(self, particles: int, seed: int) -> dict[str, Tensor]:
        n = self.num_gaussians
        means, colors = [], []
        for row in RowRandom.initial(seed, particles).split():
            rng = row.generator("Gaussians")
            directions = F.normalize(torch.randn(n, 3, generator=rng), dim=1)
            distances = self.init_radius * torch.rand(n, 1, generator=rng) ** (1 / 3)
            means.append(directions * distances)
            colors.append(self.init_color_std * torch.randn(n, 3, generator=rng))
        neighbor_distance = self.init_radius * (4 * math.pi / 3 / n) ** (1 / 3)
        scale = min(self.init_scale * neighbor_distance, self.max_scale)
        opacity = torch.tensor(self.init_opacity / MAX_OPACITY)
        return {
            "means": torch.stack(means),
            "scales": torch.full((particles, n, 3), math.log(scale)),
            "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(particles, n, 1),
            "opacities": opacity.logit().repeat(particles, n),
            "colors": torch.stack(colors),
        }

    def build(self, prior: Prior, particles: int, seed: int) -> GaussianSplatParticles:
        initial, size = self._initial_params(particles, seed), self.canvas_size(prior)
        return GaussianSplatParticles(self, initial, size, seed).to(prior.device)
