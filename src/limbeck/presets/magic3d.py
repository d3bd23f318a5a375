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
from limbeck.timesteps import TwoStage, Uniform
from limbeck.views import Orbit


@dataclass(frozen=True)
class Magic3D(Preset):
    """A field by SDS, then its surface with colours by SDS at the model's full size: coarse, fine."""

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        coarse = Experiment(
            prompts,
            method=SDS(guidance=15.0),
            representation=replace(SMALL, late=0),
            views=AROUND,
            timesteps=TwoStage(),
            optimizer=Adam(fall=0.5),
            steps=400,
        )
        mesh = Mesh(cells=40, half=1.2, shading="texture", laplacian=0.5)
        fine = replace(coarse, representation=mesh, timesteps=Uniform(0.02, 0.5), steps=250)
        return {"coarse": coarse, "fine": fine}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = Field(
            encoding=Hashed(), decoder=Small(64), blob=Ball(10.0, 0.5), background=Environment(), half=1.0, samples=256,
            resolution=64, rate=1e-2, opacity=1e-3, cells=64,
        )  # fmt: skip
        views = Orbit(each=4, distance=(1.5, 2.0), fov=(40.0, 70.0), elevation=(-10.0, 45.0))
        coarse = Experiment(prompts, model=SD, method=SDS(guidance=100.0), representation=field, views=views, steps=10_000)
        mesh = Mesh(cells=128, half=1.0, shading="texture", encoding=Hashed(), smooth=0.0, bending=10_000.0)
        fine = replace(coarse, representation=mesh, timesteps=Uniform(0.02, 0.5), steps=5_000)
        return {"coarse": coarse, "fine": fine}
