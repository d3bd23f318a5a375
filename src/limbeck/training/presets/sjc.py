"""The preset of Score Jacobian Chaining (arXiv 2212.00774)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import UniformWeight
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.background import SolidBackground
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.methods.sjc import SJC
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import STABLE_DIFFUSION, Preset
from limbeck.training.presets.dreamfusion import WORLD_CAMERAS, WORLD_NERF


@dataclass(frozen=True)
class SJCPreset(Preset):
    """Score Jacobian Chaining (Wang et al. 2022): a voxel grid of latents.

    References:
        Wang et al., Score Jacobian Chaining: Lifting Pretrained 2D Diffusion Models for 3D
        Generation, arXiv 2212.00774. The numbers and their sources are in docs/presets/sjc.md.
    """

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
            method=SJC(guidance=15.0),
            weight=UniformWeight(),
            representation=field,
            cameras=WORLD_CAMERAS,
            timesteps=TwoStageTimesteps(),
            optimizer=Adam(decay_start=0.5),
            steps=600,
        )
        return {"field": experiment}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = NeRF(
            encoding=DenseGridEncoding(resolutions=(100,), features_per_level=5),
            background=SolidBackground(lr_scale=0.002),
            space="latent",
            bound=1.0,
            samples=346,
            lr=0.05,
            opacity_weight=70.0,
            occupancy_resolution=64,
        )
        cameras = Orbit(
            per_particle=1,
            camera_distance_range=(1.5, 1.5),
            fovy_range=(40.0, 70.0),
            elevation_range=(-6.4, 90.0),
            uniform_sphere_prob=1.0,
            overhead_threshold=41.8,
        )
        experiment = Experiment(
            prompts,
            model=STABLE_DIFFUSION,
            method=SJC(guidance=100.0),
            weight=UniformWeight(),
            representation=field,
            cameras=cameras,
            timesteps=UniformTimesteps(0.01, 0.97),
            optimizer=Adam(decay_start=1.0),
            steps=10_000,
        )
        return {"field": experiment}
