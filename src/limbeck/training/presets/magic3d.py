"""The preset of Magic3D (arXiv 2211.10440)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import DreamFusionWeight, UniformWeight
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.background import EnvironmentBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import Magic3DDensityInit
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.graphics.rendering.shading import Shading
from limbeck.methods.sds import SDS
from limbeck.representations.dmtet import DMTet
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import STABLE_DIFFUSION, Preset
from limbeck.training.presets.dreamfusion import WORLD_CAMERAS, WORLD_NERF


@dataclass(frozen=True)
class Magic3DPreset(Preset):
    """Magic3D (Lin et al. 2022), from coarse to fine in two stages by SDS.

    coarse: a radiance field at low resolution. fine: its surface, with colors, at the full
    resolution of the model.

    References:
        Lin et al., Magic3D: High-Resolution Text-to-3D Content Creation, arXiv 2211.10440. The
        numbers and their sources are in docs/presets/magic3d.md.
    """

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        coarse = Experiment(
            prompts,
            method=SDS(guidance=15.0),
            representation=replace(
                WORLD_NERF, resolution_late=0, entropy_weight=0.0, entropy_warmup=0.0
            ),
            cameras=WORLD_CAMERAS,
            timesteps=TwoStageTimesteps(),
            optimizer=Adam(decay_start=0.5),
            steps=400,
        )
        mesh = DMTet(grid_resolution=40, bound=1.2, shading="texture")
        fine = replace(
            coarse, representation=mesh, timesteps=UniformTimesteps(0.02, 0.5), steps=250
        )
        return {"coarse": coarse, "fine": fine}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        encoding = HashGridEncoding(max_resolution=4096, smoothstep=False)
        background = EnvironmentBackground(lr_scale=0.1)
        field = NeRF(
            encoding=encoding,
            decoder=MLPDecoder(64),
            density_init=Magic3DDensityInit(10.0, 0.5),
            background=background,
            bound=2.0,
            samples=512,
            resolution=64,
            shading=Shading(ambient_only_fraction=0.2, diffuse_prob=0.75, ambient_ratio=0.5),
            lr=1e-2,
            opacity_weight=1.0,
            orientation_weight=100.0,
            occupancy_resolution=64,
        )
        cameras = Orbit(
            per_particle=4,
            camera_distance_range=(1.5, 2.0),
            fovy_range=(40.0, 70.0),
            elevation_range=(-10.0, 45.0),
            camera_perturb=0.1,
            center_perturb=0.2,
            up_perturb=0.02,
        )
        coarse = Experiment(
            prompts,
            model=STABLE_DIFFUSION,
            method=SDS(guidance=101.0),
            weight=UniformWeight(),
            representation=field,
            cameras=cameras,
            optimizer=Adam(decay_start=1.0),
            steps=10_000,
        )
        mesh = DMTet(
            grid_resolution=128,
            bound=1.0,
            shading="texture",
            background=background,
            encoding=encoding,
            decoder=MLPDecoder(64),
            sdf_blur=0.0,
            laplacian_weight=0.0,
            normal_consistency_weight=10_000.0,
            lr=1e-2,
            sdf_lr=1e-2,
            deform_lr=1e-2,
        )
        close = replace(cameras, fovy_range=(30.0, 45.0))
        fine = replace(
            coarse,
            weight=DreamFusionWeight(),
            representation=mesh,
            cameras=close,
            timesteps=UniformTimesteps(0.02, 0.5),
            steps=5_000,
        )
        return {"coarse": coarse, "fine": fine}
