"""DreamFusion, Poole et al. 2022, arXiv 2209.14988: a radiance field by SDS."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.graphics.cameras.views import Orbit
from limbeck.graphics.fields.background import EnvironmentBackground
from limbeck.graphics.fields.decoders import ResidualDecoder
from limbeck.graphics.fields.density_init import GaussianDensityInit
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.frequency import FrequencyEncoding
from limbeck.graphics.rendering.shading import Shading
from limbeck.methods.sds import SDS
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import SD, Preset

#: cameras as the embedded model has seen its world: 40 degrees wide, 3.4 to 3.8 away, seldom above 42 degrees
AROUND = Orbit(per_particle=4, elevation=(-2.0, 42.0), uniform_sphere_prob=0.0, overhead=55.0)
#: of a box in which its objects fit; rough features are held down, and outlines harden as the run goes on (docs/solids.md)
SMALL = NeRF(
    encoding=DenseGridEncoding(levels=(12, 24, 48)),
    sharp=10.0,
    variation=100.0,
    entropy=600.0,
    rise=1.0,
    resolution=32,
    late=64,
    switch=0.4,
)


@dataclass(frozen=True)
class DreamFusionPreset(Preset):
    """A radiance field by SDS, as DreamFusion makes it."""

    name = "dreamfusion"

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        return {"field": Experiment(
            prompts, method=SDS(guidance=15.0), representation=SMALL, cameras=AROUND, timesteps=TwoStageTimesteps(),
            optimizer=Adam(fall=0.5), steps=600,
        )}  # fmt: skip

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        light = Shading(after=1 / 15, lit=0.75, textureless=0.5, ambient=0.1)
        field = NeRF(
            encoding=FrequencyEncoding(), decoder=ResidualDecoder(), blob=GaussianDensityInit(5.0, 0.2), background=EnvironmentBackground(), shading=light,
            density="exp", half=1.4, samples=128, resolution=64, rate=1e-3, opacity=1.0, orientation=100.0, cells=64,
        )  # fmt: skip
        views = Orbit(
            per_particle=4,
            distance=(1.0, 1.5),
            fov=(40.6, 71.1),
            elevation=(-10.0, 90.0),
            camera_perturb=0.1,
            center_perturb=0.2,
            up_perturb=0.02,
        )
        return {"field": Experiment(
            prompts, model=SD, method=SDS(guidance=101.0), representation=field, cameras=views, timesteps=UniformTimesteps(0.02, 0.98),
            steps=15_000,
        )}  # fmt: skip
