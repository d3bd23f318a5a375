"""The preset of Latent-NeRF (arXiv 2211.07600)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import Fantasia3DWeight
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import GaussianDensityInit
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.methods.sds import SDS
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import STABLE_DIFFUSION, Preset
from limbeck.training.presets.dreamfusion import WORLD_CAMERAS, WORLD_NERF


@dataclass(frozen=True)
class LatentNeRFPreset(Preset):
    """Latent-NeRF (Metzer et al. 2022): a radiance field that renders latents, by SDS.

    No image is encoded during training.

    References:
        Metzer et al., Latent-NeRF for Shape-Guided Generation of 3D Shapes and Textures,
        arXiv 2211.07600. The numbers and their sources are in docs/presets/latent-nerf.md.
    """

    name = "latent-nerf"

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = replace(
            WORLD_NERF,
            encoding=DenseGridEncoding(features_per_level=5),
            space="latent",
            resolution=0,
            resolution_late=0,
            lr=0.03,
            entropy_weight=0.0,
            entropy_warmup=0.0,
        )
        experiment = Experiment(
            prompts,
            method=SDS(guidance=15.0),
            representation=field,
            cameras=WORLD_CAMERAS,
            timesteps=TwoStageTimesteps(),
            optimizer=Adam(decay_start=0.5),
            steps=600,
        )
        return {"field": experiment}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = NeRF(
            encoding=HashGridEncoding(smoothstep=False, lr_scale=10.0),
            decoder=MLPDecoder(64),
            density_init=GaussianDensityInit(5.0, 0.2),
            density_activation="exp",
            space="latent",
            bound=1.0,
            samples=128,
            lr=1e-3,
            entropy_weight=7.2e-4,
            occupancy_resolution=64,
        )
        cameras = Orbit(
            per_particle=1,
            camera_distance_range=(1.0, 1.5),
            fovy_range=(40.0, 70.0),
            elevation_range=(-60.0, 90.0),
            uniform_sphere_prob=0.0,
            front_threshold=35.0,
        )
        experiment = Experiment(
            prompts,
            model=STABLE_DIFFUSION,
            method=SDS(guidance=100.0),
            weight=Fantasia3DWeight(),
            representation=field,
            cameras=cameras,
            timesteps=UniformTimesteps(0.02, 0.98),
            optimizer=Adam(decay_start=1.0),
            steps=5_000,
        )
        return {"field": experiment}
