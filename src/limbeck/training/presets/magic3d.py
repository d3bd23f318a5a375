"""Magic3D, Lin et al. 2022, arXiv 2211.10440: coarse to fine, a field at low resolution and then its surface at a high one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import DreamFusionWeight
from limbeck.distillation.weights import UniformWeight as Even
from limbeck.graphics.cameras.views import Orbit
from limbeck.graphics.fields.background import EnvironmentBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import Magic3DDensityInit as Ball
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.rendering.shading import Shading
from limbeck.methods.sds import SDS
from limbeck.representations.dmtet import DMTet
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import SD, Preset
from limbeck.training.presets.dreamfusion import AROUND, SMALL


@dataclass(frozen=True)
class Magic3DPreset(Preset):
    """A field by SDS, then its surface with colours by SDS at the model's full size: coarse, fine."""

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        coarse = Experiment(
            prompts,
            method=SDS(guidance=15.0),
            representation=replace(SMALL, late=0, entropy=0.0, rise=0.0),
            cameras=AROUND,
            timesteps=TwoStageTimesteps(),
            optimizer=Adam(fall=0.5),
            steps=400,
        )
        mesh = DMTet(cells=40, half=1.2, shading="texture")
        fine = replace(
            coarse, representation=mesh, timesteps=UniformTimesteps(0.02, 0.5), steps=250
        )
        return {"coarse": coarse, "fine": fine}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        known, behind = HashGridEncoding(finest=4096, smooth=False), EnvironmentBackground(rate=0.1)
        field = NeRF(
            encoding=known, decoder=MLPDecoder(64), blob=Ball(10.0, 0.5), background=behind, half=2.0, samples=512, resolution=64,
            shading=Shading(after=0.2, lit=0.75, ambient=0.5), rate=1e-2, opacity=1.0, orientation=100.0, cells=64,
        )  # fmt: skip
        views = Orbit(
            per_particle=4,
            distance=(1.5, 2.0),
            fov=(40.0, 70.0),
            elevation=(-10.0, 45.0),
            camera_perturb=0.1,
            center_perturb=0.2,
            up_perturb=0.02,
        )
        coarse = Experiment(
            prompts,
            model=SD,
            method=SDS(guidance=101.0),
            weight=Even(),
            representation=field,
            cameras=views,
            steps=10_000,
        )
        mesh = DMTet(
            cells=128, half=1.0, shading="texture", background=behind, encoding=known, decoder=MLPDecoder(64), smooth=0.0, laplacian=0.0,
            bending=10_000.0, rate=1e-2, rate_sdf=1e-2, rate_deform=1e-2,
        )  # fmt: skip
        near = replace(views, fov=(30.0, 45.0))
        fine = replace(
            coarse,
            weight=DreamFusionWeight(),
            representation=mesh,
            cameras=near,
            timesteps=UniformTimesteps(0.02, 0.5),
            steps=5_000,
        )
        return {"coarse": coarse, "fine": fine}
