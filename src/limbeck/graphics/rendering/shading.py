"""Light on a field while it is trained (DreamFusion, Poole et al. 2022, arXiv 2209.14988, section 3.1)."""

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
    """A lamp at ``place`` ``[B, 3]``, one per view; textureless things are white."""

    place: Float[Tensor, "b 3"]
    ambient: float
    textureless: bool

    def of(self, rows: Int[Tensor, "r"]) -> PointLight:
        """The lamps of some of the views."""
        return PointLight(self.place[rows.to(self.place.device)], self.ambient, self.textureless)

    def on(self, albedo: Float[Tensor, "n 3"], samples: RaySamples, normals: Float[Tensor, "m 3"], seen: Bool[Tensor, "n"], rays: int
           ) -> Float[Tensor, "n 3"]:  # fmt: skip
        """albedo (l_rho max(0, n . l) + l_a) of samples of ``rays`` rays to a view. Normals are of those that are ``seen``: what
        is not has no weight in the picture."""
        towards = torch.nn.functional.normalize(
            self.place.to(albedo)[samples.ray[seen] // rays] - samples.points[seen], dim=1
        )
        lit = self.ambient + (1 - self.ambient) * (normals * towards).sum(1).clamp_min(0)
        shade = albedo.new_ones(len(albedo)).index_put((seen.nonzero().squeeze(1),), lit)
        return shade[:, None] * (torch.ones_like(albedo) if self.textureless else albedo)


@dataclass(frozen=True)
class Shading:
    """When a lamp shines, drawn anew in every step.

    after: share of the run before which there is none (DreamFusion: 1k of 15k steps). lit: how often there is one afterwards (.75).
    textureless: how often a lit thing is white, so that its shape must tell what it is (.5). ambient: light from everywhere when
    there is a lamp (.1), which gives the rest. A lamp stands at N(place of the camera, spread), .8 to 1.5 from the origin.
    """

    after: float = 0.07
    lit: float = 0.0
    textureless: float = 0.5
    ambient: float = 0.1
    spread: float = 1.0

    def __post_init__(self) -> None:
        for name in ("after", "lit", "textureless", "ambient"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in [0, 1], not {getattr(self, name)}")
        if self.spread < 0:
            raise ValueError(f"spread must not be negative, not {self.spread}")

    def draw(self, camera: Camera, view: RenderRequest) -> PointLight | None:
        """The lamp of this step; None where colours are shown as they are. Nothing is drawn where none can be."""
        if view.rng is None or not self.lit or view.progress < self.after:
            return None
        there, bare = torch.rand(2, generator=view.rng).tolist()
        if there >= self.lit:
            return None
        towards = camera.eye.cpu() + self.spread * torch.randn(len(camera), 3, generator=view.rng)
        norm = 0.8 + 0.7 * torch.rand(len(camera), 1, generator=view.rng)
        place = torch.nn.functional.normalize(towards, dim=1) * norm
        return PointLight(place, self.ambient, bare < self.textureless)
