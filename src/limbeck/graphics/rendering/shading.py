"""Random point-light shading of a field during training.

References:
    Poole et al. 2022, DreamFusion, arXiv 2209.14988, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.graphics.cameras.camera import Camera
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.graphics.rendering.volume import RaySamples


@dataclass(frozen=True)
class PointLight:
    """A point light per view, with an ambient term.

    Attributes:
        position: ``[B, 3]`` positions.
        ambient_ratio: ambient intensity in [0, 1]; the diffuse intensity is the rest.
        textureless: replace the albedo by white.
    """

    position: Float[Tensor, "b 3"]
    ambient_ratio: float
    textureless: bool

    def select(self, rows: Int[Tensor, "r"]) -> PointLight:
        """The lights of some of the views."""
        position = self.position[rows.to(self.position.device)]
        return PointLight(position, self.ambient_ratio, self.textureless)

    def shade(
        self,
        albedo: Float[Tensor, "n 3"],
        samples: RaySamples,
        normals: Float[Tensor, "m 3"],
        visible: Bool[Tensor, "n"],
        rays_per_view: int,
    ) -> Float[Tensor, "n 3"]:
        """Diffuse shading: albedo (l_rho max(0, n . l) + l_a).

        Args:
            albedo: colors of the samples.
            samples: samples of all views.
            normals: unit normals of the visible samples.
            visible: samples with weight in the image; the others keep their albedo.
            rays_per_view: number of rays of a view.
        """
        view = samples.ray_index[visible] // rays_per_view
        to_light = torch.nn.functional.normalize(
            self.position.to(albedo)[view] - samples.points[visible], dim=1
        )
        diffuse = (normals * to_light).sum(1).clamp_min(0)
        intensity = self.ambient_ratio + (1 - self.ambient_ratio) * diffuse
        index = visible.nonzero().squeeze(1)
        shade = albedo.new_ones(len(albedo)).index_put((index,), intensity)
        return shade[:, None] * (torch.ones_like(albedo) if self.textureless else albedo)


@dataclass(frozen=True)
class Shading:
    """When and how training renders are lit, sampled in every step.

    The light is at N(camera position, light_position_perturb), rescaled to a distance of 0.8 to 1.5
    from the origin.

    Attributes:
        ambient_only_fraction: fraction of training without a light (DreamFusion: 1k of 15k steps).
        diffuse_prob: probability of a light afterwards (DreamFusion: 0.75). 0 disables shading.
        textureless_prob: probability that a lit render is white, so that the shape must explain the
            prompt (DreamFusion: 0.5).
        ambient_ratio: ambient intensity of lit renders in [0, 1] (DreamFusion: 0.1); the light
            gives the rest.
        light_position_perturb: standard deviation of the light position around the camera.
    """

    ambient_only_fraction: float = 0.07
    diffuse_prob: float = 0.0
    textureless_prob: float = 0.5
    ambient_ratio: float = 0.1
    light_position_perturb: float = 1.0

    def __post_init__(self) -> None:
        fractions = ("ambient_only_fraction", "diffuse_prob", "textureless_prob", "ambient_ratio")
        for name in fractions:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if self.light_position_perturb < 0:
            raise ValueError(
                f"light_position_perturb must not be negative, not {self.light_position_perturb}"
            )

    def sample_light(self, camera: Camera, request: RenderRequest) -> PointLight | None:
        """Sample the lights of a step; None if the render is not lit.

        Whether it is lit is drawn once per step, the position of the light per row, of which the
        views of a group share the random part.

        Args:
            camera: cameras of the rows.
            request: the render request, with the random numbers and the progress.
        """
        rng = request.rng
        if rng is None or not self.diffuse_prob or request.progress < self.ambient_only_fraction:
            return None
        u_diffuse, u_textureless = rng.per_step.uniform("shading", 2)[0].tolist()
        if u_diffuse >= self.diffuse_prob:
            return None
        noise = rng.per_group.normal("light direction", 3)
        direction = camera.eye.cpu() + self.light_position_perturb * noise
        distance = 0.8 + 0.7 * rng.per_group.uniform("light distance", 1)
        position = torch.nn.functional.normalize(direction, dim=1) * distance
        return PointLight(position, self.ambient_ratio, u_textureless < self.textureless_prob)
