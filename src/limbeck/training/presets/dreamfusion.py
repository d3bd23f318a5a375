"""The preset of DreamFusion (arXiv 2209.14988)."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.graphics.cameras.samplers import Orbit
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
from limbeck.training.presets.base import STABLE_DIFFUSION, Preset

#: cameras like those the embedded model was trained on: field of view 40 degrees, distance 3.4 to
#: 3.8, elevation rarely above 42 degrees
WORLD_CAMERAS = Orbit(
    per_particle=4, elevation_range=(-2.0, 42.0), uniform_sphere_prob=0.0, overhead_threshold=55.0
)
#: a field in a box that fits the objects of the embedded model, with smooth features and outlines
#: that sharpen during training (docs/3d-recipes.md)
WORLD_ENCODING = DenseGridEncoding(resolutions=(12, 24, 48))
WORLD_NERF = NeRF(
    encoding=WORLD_ENCODING,
    density_scale=10.0,
    tv_weight=100.0,
    entropy_weight=600.0,
    entropy_warmup=1.0,
    resolution=32,
    resolution_late=64,
    resolution_switch=0.4,
)


@dataclass(frozen=True)
class DreamFusionPreset(Preset):
    """DreamFusion (Poole et al. 2022): a radiance field by SDS.

    References:
        Poole et al., DreamFusion: Text-to-3D using 2D Diffusion, arXiv 2209.14988. The numbers and
        their sources are in docs/presets/dreamfusion.md.
    """

    name = "dreamfusion"

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        experiment = Experiment(
            prompts,
            method=SDS(guidance=15.0),
            representation=WORLD_NERF,
            cameras=WORLD_CAMERAS,
            timesteps=TwoStageTimesteps(),
            optimizer=Adam(decay_start=0.5),
            steps=600,
        )
        return {"field": experiment}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        shading = Shading(
            ambient_only_fraction=1 / 15, diffuse_prob=0.75, textureless_prob=0.5, ambient_ratio=0.1
        )
        field = NeRF(
            encoding=FrequencyEncoding(),
            decoder=ResidualDecoder(),
            density_init=GaussianDensityInit(5.0, 0.2),
            background=EnvironmentBackground(),
            shading=shading,
            density_activation="exp",
            bound=1.4,
            samples=128,
            resolution=64,
            lr=1e-3,
            opacity_weight=1.0,
            orientation_weight=100.0,
            occupancy_resolution=64,
        )
        cameras = Orbit(
            per_particle=4,
            camera_distance_range=(1.0, 1.5),
            fovy_range=(40.6, 71.1),
            elevation_range=(-10.0, 90.0),
            camera_perturb=0.1,
            center_perturb=0.2,
            up_perturb=0.02,
        )
        experiment = Experiment(
            prompts,
            model=STABLE_DIFFUSION,
            method=SDS(guidance=101.0),
            representation=field,
            cameras=cameras,
            timesteps=UniformTimesteps(0.02, 0.98),
            optimizer=Adam(decay_start=0.2),  # where the warm-up of the paper ends
            steps=15_000,
        )
        return {"field": experiment}
