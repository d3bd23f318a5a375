"""Radiance fields: density and color of every point of a box, rendered by ray marching.

References:
    Mildenhall et al., NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis,
    ECCV 2020, arXiv 2003.08934.
    Poole et al., DreamFusion: Text-to-3D using 2D Diffusion, arXiv 2209.14988.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.config.ranges import check_not_negative, check_positive
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.cameras.samplers import CameraSampler, Orbit
from limbeck.graphics.fields.background import Background
from limbeck.graphics.fields.decoders import Decoder, IdentityDecoder, check_decoder_learns
from limbeck.graphics.fields.density_init import DensityInit, Magic3DDensityInit
from limbeck.graphics.fields.encodings.base import Encoding
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.frequency import FrequencyEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.fields.surface import field_to_surface
from limbeck.graphics.geometry.assets import Surface
from limbeck.graphics.rendering.shading import PointLight, Shading
from limbeck.graphics.rendering.smoothness import normal_smoothness
from limbeck.representations.base import Render, Representation, RepresentationConfig, latent_shape
from limbeck.representations.radiance_field import RadianceField
from limbeck.system.notices import notify
from limbeck.system.random import RowRandom
from limbeck.world.background import WorldBackground

_OCCUPANCY_EVERY = 16  #: Steps between updates of the occupancy grid.
_VISIBLE_WEIGHT = 1e-3  #: Normals are computed for samples with at least this weight.


class NeRFParticles(Representation):
    """Radiance fields, one per particle.

    Args:
        config: options of the fields.
        prior: the model of the run.
        particles: number of particles.
        seed: seed of the initial parameters and of the occupancy updates.
    """

    def __init__(self, config: NeRF, prior: Prior, particles: int, seed: int):
        super().__init__()
        size = config.canvas_size(prior)
        shape = latent_shape(prior, size) if config.space == "latent" else (3, *size)
        self.config, self.channels, self.canvas_size = config, shape[0], shape[1:]
        self.seed = seed
        rngs = (row.generator("field") for row in RowRandom.initial(seed, particles).split())
        self.particles = nn.ModuleList(RadianceField(config, self.channels, rng) for rng in rngs)
        self.to(prior.device)

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.field(0).occupancy.densities.device

    @property
    def box_bound(self) -> float | None:
        return self.config.bound

    def param_groups(self) -> Iterable[dict]:
        c = self.config
        lr_scales = {
            "encoding": c.encoding.lr_scale,
            "decoder": c.decoder.lr_scale,
            "background": c.background.lr_scale,
        }
        for name, lr_scale in lr_scales.items():
            modules = [particle.get_submodule(name) for particle in self.particles]
            params = [p for module in modules for p in module.parameters()]
            if params:
                yield {"params": params, "lr": c.lr * lr_scale}

    def field(self, particle: int) -> RadianceField:
        """Return the field of a particle."""
        module = self.particles[particle]
        assert isinstance(module, RadianceField)
        return module

    def density(
        self, points: Float[Tensor, "n 3"], particle: int, progress: float = 1.0
    ) -> Float[Tensor, "n"]:
        """Return the density per unit of length.

        Args:
            points: points in world space.
            particle: index of the particle.
            progress: fraction of the run, for encodings that change.
        """
        return self.field(particle).density(points, progress)

    def albedo(self, points: Float[Tensor, "n 3"], particle: int) -> Float[Tensor, "n 3"]:
        """Return the unlit color in [0, 1].

        Args:
            points: points in world space.
            particle: index of the particle.

        Raises:
            ValueError: if the field holds latents.
        """
        self.require_colors()
        return self.field(particle).query(points)[1]

    def require_colors(self) -> None:
        """Raise a ValueError if the field holds latents."""
        if self.config.space == "latent":
            raise ValueError(
                "a field of latents has no colors: render it, or train one with "
                "--representation.space image"
            )

    def _training_size(self, progress: float) -> tuple[int, ...]:
        """Height and width of training renders at a fraction of the run."""
        c, short = self.config, self.config.resolution
        if c.resolution_late and progress >= c.resolution_switch:
            short = c.resolution_late
        if not short:
            return self.canvas_size
        return tuple(short * side // min(self.canvas_size) for side in self.canvas_size)

    def _render_size(self, request: RenderRequest) -> tuple[int, ...]:
        """Height and width in which rays are cast."""
        if request.rng is not None:
            return self._training_size(request.progress)
        return request.size if request.size and self.config.space == "image" else self.canvas_size

    def render(self, request: RenderRequest) -> Render:
        if request.camera is None:
            raise ValueError("a NeRF needs cameras: --cameras orbit")
        light = self.config.shading.sample_light(request.camera, request)
        parts = []
        for particle in sorted(set(request.particle.tolist())):
            rows = (request.particle == particle).nonzero().squeeze(1)
            own_light = light.select(rows) if light is not None else None
            parts.append(self._render_particle(particle, request[rows], own_light))
        order = request.particle.argsort(stable=True).argsort().to(self.device)
        return _concat_renders(parts, order)

    def _render_particle(
        self, particle: int, request: RenderRequest, light: PointLight | None
    ) -> Render:
        """Render one particle, which all rows of the request ask for."""
        assert request.camera is not None
        c, field = self.config, self.field(particle)
        b, training = len(request), request.rng is not None
        size = self._render_size(request)
        h, w = size
        camera = request.camera.to(self.device)
        directions = camera.directions(h, w)
        samples = field.sample_rays(camera.eye, directions, request)
        rng = request.generator("density noise")
        view_directions = None
        if c.view_dependence != "none":
            view_directions = directions.reshape(-1, 3)[samples.ray_index]
        density, albedo = field.query(samples.points, request.progress, rng, view_directions)
        weights = samples.render_weights(density)
        normal, terms = None, {}
        has_normal_terms = c.orientation_weight > 0 or c.normal_smooth_weight > 0
        if (light is not None or has_normal_terms) if training else request.normals:
            visible = weights.detach() > _VISIBLE_WEIGHT
            surface = samples.select(visible)
            normals = field.normals(surface.points, request.progress)
            normal = F.normalize(surface.accumulate(weights[visible], normals), dim=1, eps=1e-6)
            normal = normal.view(b, h, w, 3).permute(0, 3, 1, 2)
            cosine = (normals * directions.reshape(-1, 3)[surface.ray_index]).sum(1)
            facing_away = weights[visible].detach() * cosine.clamp_min(0).square()
            terms["orientation"] = facing_away.sum() / samples.num_rays
            if light is not None:
                albedo = light.shade(albedo, samples, normals, visible, h * w)
        values = torch.cat(
            [albedo, torch.ones_like(weights)[:, None], samples.distances[:, None]], 1
        )
        total = samples.accumulate(weights, values).view(b, h, w, -1)
        color, alpha, distance = total.split([albedo.shape[1], 1, 1], -1)
        # from distances along the rays to depths along the axis of the camera
        cos_axis = -(directions * camera.pose[:, None, None, :3, 2]).sum(-1)
        depth = distance[..., 0] * cos_axis / alpha[..., 0].clamp_min(1e-6)
        background = field.background(directions, request.generator("background"), request.progress)
        image = (color + (1 - alpha) * background).permute(0, 3, 1, 2)
        if c.normal_smooth_weight and normal is not None:
            terms["normal_smooth"] = normal_smoothness(normal, alpha.permute(0, 3, 1, 2))
        background = background.permute(0, 3, 1, 2)
        terms |= {"opacity": (alpha.square() + 0.01).sqrt().mean(), "entropy": _entropy(alpha)}
        if c.tv_weight:  # it passes over every feature of the grid: a sixth of a small render
            terms["tv"] = field.encoding.total_variation().to(self.device)
        if training and size != self.canvas_size:
            image, background = (
                F.interpolate(x, self.canvas_size, mode="bilinear", align_corners=False)
                for x in (image, background)
            )
        alpha = alpha.permute(0, 3, 1, 2)
        return Render(image, c.space, alpha, depth[:, None], normal, terms, background)

    def asset(self, particle: int) -> Surface:
        """Return the surface that the field shows; see ``field_to_surface``.

        Raises:
            ValueError: if the field is nowhere half opaque, or holds latents.
        """
        self.require_colors()
        return field_to_surface(self.field(particle).query, self.config.bound, self.device)

    def regularize(self, render: Render, progress: float) -> dict[str, Float[Tensor, ""]]:
        c = self.config
        ramp = min(progress / c.entropy_warmup, 1.0) if c.entropy_warmup else 1.0
        weights = {
            "opacity": c.opacity_weight,
            "orientation": c.orientation_weight,
            "entropy": c.entropy_weight * ramp,
            "tv": c.tv_weight,
            "normal_smooth": c.normal_smooth_weight,
        }
        return {
            name: value * weights[name] for name, value in render.terms.items() if weights[name]
        }

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        if (step + 1) % _OCCUPANCY_EVERY or step < steps * self.config.occupancy_warmup:
            return
        every = RowRandom.of_step(self.seed, step, torch.arange(len(self.particles)))
        for i, row in enumerate(every.split()):
            field, rng = self.field(i), row.generator("occupancy")
            field.occupancy.update(partial(field.density, progress=step / steps), rng)


def _entropy(alpha: Float[Tensor, "b h w 1"]) -> Float[Tensor, ""]:
    """Return the mean binary entropy of alpha in nats; small if all are 0 or 1."""
    a = alpha.clamp(1e-5, 1 - 1e-5)
    return -(a * a.log() + (1 - a) * (1 - a).log()).mean()


def _concat_renders(parts: list[Render], order: Tensor) -> Render:
    """Concatenate the rows of renders and reorder them; terms are summed over the particles."""

    def concat(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])[order]

    terms = {
        name: torch.stack([part.terms[name] for part in parts]).sum() for name in parts[0].terms
    }
    normal = concat("normal") if parts[0].normal is not None else None
    background = concat("background") if parts[0].background is not None else None
    image, alpha, depth = concat("image"), concat("alpha"), concat("depth")
    return Render(image, parts[0].space, alpha, depth, normal, terms, background)


@dataclass(frozen=True)
class NeRF(RepresentationConfig):
    """A radiance field per particle, in a box around the origin.

    Attributes:
        encoding: encoding of the points.
        decoder: network from features to density and colors.
        density_init: density that is added from the start.
        background: background behind the field; unused with space latent.
        shading: lighting of training renders.
        bound: half the side of the box, in world units.
        samples: samples per ray, along the diagonal of the box; at least 2, and 3 with
            ``importance_samples``.
        importance_samples: additional samples per ray, where the first ones have weight (NeRF). 0:
            none.
        space: what is rendered: image, or latent (Latent-NeRF).
        density_activation: activation of the raw density.
        density_scale: factor on the learned part of the raw density.
        density_noise: standard deviation of noise added to the raw density in training.
        resolution: short side of training renders, which are upsampled to the size of the model. 0:
            that size.
        resolution_late: short side of training renders after ``resolution_switch``. 0: unchanged.
        resolution_switch: fraction of the run at which ``resolution_late`` sets in.
        lr: peak learning rate.
        opacity_weight: weight of DreamFusion's opacity term.
        orientation_weight: weight of DreamFusion's orientation term: visible normals that face away
            from the camera.
        entropy_weight: weight of the binary entropy of the opacities.
        tv_weight: weight of the total variation of the features of the encoding, with encoding
            dense-grid or triplane.
        normal_smooth_weight: weight of the square difference of normals of neighboring pixels.
        entropy_warmup: fraction of the run over which ``entropy_weight`` ramps linearly from 0, so
            that thin parts form before opacities harden. 0: no ramp.
        occupancy_resolution: cells per side of the occupancy grid, which skips empty space; at
            least 2.
        occupancy_warmup: fraction of the run before the occupancy grid is first updated.
        view_dependence: brightness: colors are multiplied by the sigmoid of a linear function of
            the horizontal viewing direction, learned at each point, as under a light that moves
            with the camera. Exports, and runs that start from the field, do not depend on the view.
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
    normal_smooth_weight: float = 0.0
    entropy_warmup: float = 0.0
    occupancy_resolution: int = 32
    occupancy_warmup: float = 0.05
    view_dependence: Literal["none", "brightness"] = "none"

    def __post_init__(self) -> None:
        if self.images:
            raise ValueError("a NeRF cannot start from images: leave out images")
        for name in ("samples", "occupancy_resolution"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, not {getattr(self, name)}")
        if self.importance_samples and self.samples < 3:  # the first and the last have no weight
            raise ValueError(
                f"samples must be at least 3 with importance_samples, not {self.samples}"
            )
        check_decoder_learns(self.encoding, self.decoder)
        if self.tv_weight and isinstance(self.encoding, (FrequencyEncoding, HashGridEncoding)):
            raise ValueError(
                f"tv_weight {self.tv_weight} has no effect with encoding hash-grid or frequency, "
                "whose features have no neighbors: set --representation.tv-weight 0, or use "
                "--representation.encoding dense-grid or triplane"
            )
        non_negative = (
            "importance_samples",
            "resolution",
            "resolution_late",
            "density_scale",
            "density_noise",
            "opacity_weight",
            "orientation_weight",
            "entropy_weight",
            "tv_weight",
            "normal_smooth_weight",
        )
        check_not_negative(self, *non_negative)
        for name in ("resolution_switch", "entropy_warmup", "occupancy_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        check_positive(self, "bound", "lr")
        if self.space == "latent" and self.shading.diffuse_prob:
            raise ValueError(
                "latents cannot be lit: set --representation.shading.diffuse-prob 0, or "
                "--representation.space image"
            )
        if self.space == "latent" and self.view_dependence != "none":
            raise ValueError(
                "latents have no brightness: set --representation.view-dependence none, or "
                "--representation.space image"
            )

    @property
    def idle_options(self) -> Mapping[str, str]:
        idle = {}
        if not self.resolution_late:
            idle["resolution_switch"] = "without resolution_late"
        if not self.entropy_weight:
            idle["entropy_warmup"] = "without entropy_weight"
        if not self.shading.diffuse_prob:
            names = [option.name for option in fields(self.shading)]
            cause = "at shading.diffuse_prob 0, at which nothing is lit"
            idle |= {f"shading.{name}": cause for name in names if name != "diffuse_prob"}
        if self.space == "latent":
            idle["background"] = "with space latent, which has one learned latent behind the field"
        return idle

    @property
    def cameras(self) -> CameraSampler:
        return Orbit()

    def build(self, prior: Prior, particles: int, seed: int) -> NeRFParticles:
        built = NeRFParticles(self, prior, particles, seed)
        short = min(built.canvas_size)
        for name in ("resolution", "resolution_late"):
            if (value := getattr(self, name)) > short:
                notify(
                    f"{name} {value} is above the size of the model, to which training renders are "
                    f"reduced: {short} shows it as much and casts fewer rays"
                )
        return built
