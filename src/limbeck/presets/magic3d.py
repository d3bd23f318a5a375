"""Magic3D, Lin et al. 2022, arXiv 2211.10440: coarse to fine, a field at low resolution and then its surface at a high one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.background import Environment
from limbeck.blob import Magic3D as Ball
from limbeck.decoder import Small
from limbeck.encodings.hashed import Hashed
from limbeck.experiment import Adam, Experiment
from limbeck.methods.sds import SDS
from limbeck.preset import SD, Preset
from limbeck.presets.dreamfusion import AROUND, SMALL
from limbeck.representations.field import Field
from limbeck.representations.mesh import Mesh
from limbeck.shading import Shading
from limbeck.timesteps import TwoStage, Uniform
from limbeck.views import Orbit
from limbeck.weights import DreamFusion
from limbeck.weights import Uniform as Even


@dataclass(frozen=True)
class Magic3D(Preset):
    """A field by SDS, then its surface with colours by SDS at the model's full size: coarse, fine."""

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        coarse = Experiment(
            prompts,
            method=SDS(guidance=15.0),
            representation=replace(SMALL, late=0, entropy=0.0, rise=0.0),
            views=AROUND,
            timesteps=TwoStage(),
            optimizer=Adam(fall=0.5),
            steps=400,
        )
        mesh = Mesh(cells=40, half=1.2, shading="texture")
        fine = replace(coarse, representation=mesh, timesteps=Uniform(0.02, 0.5), steps=250)
        return {"coarse": coarse, "fine": fine}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        known, behind = Hashed(finest=4096, smooth=False), Environment(rate=0.1)
        field = Field(
            encoding=known, decoder=Small(64), blob=Ball(10.0, 0.5), background=behind, half=2.0, samples=512, resolution=64,
            shading=Shading(after=0.2, lit=0.75, ambient=0.5), rate=1e-2, opacity=1.0, orientation=100.0, cells=64,
        )  # fmt: skip
        views = Orbit(each=4, distance=(1.5, 2.0), fov=(40.0, 70.0), elevation=(-10.0, 45.0), jitter=0.1, aim=0.2, roll=0.02)
        coarse = Experiment(
            prompts, model=SD, method=SDS(guidance=101.0), weight=Even(), representation=field, views=views, steps=10_000
        )
        mesh = Mesh(
            cells=128, half=1.0, shading="texture", background=behind, encoding=known, decoder=Small(64), smooth=0.0, laplacian=0.0,
            bending=10_000.0, rate=1e-2, rate_sdf=1e-2, rate_deform=1e-2,
        )  # fmt: skip
        near = replace(views, fov=(30.0, 45.0))
        fine = replace(coarse, weight=DreamFusion(), representation=mesh, views=near, timesteps=Uniform(0.02, 0.5), steps=5_000)
        return {"coarse": coarse, "fine": fine}
