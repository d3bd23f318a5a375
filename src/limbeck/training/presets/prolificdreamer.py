"""The preset of ProlificDreamer (arXiv 2305.16213)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.graphics.cameras.samplers import Orbit
from limbeck.graphics.fields.background import EnvironmentBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import (
    DensityInit,
    Magic3DDensityInit,
    MixedDensityInit,
    SceneDensityInit,
)
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.representations.dmtet import DMTet
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import STABLE_DIFFUSION, Preset
from limbeck.training.presets.dreamfusion import WORLD_CAMERAS, WORLD_NERF

_FULL_ENCODING = HashGridEncoding(lr_scale=10.0)
_FULL_BACKGROUND = EnvironmentBackground(num_hidden_layers=1, random_aug_prob=0.5)

_FULL_CAMERAS = Orbit(
    per_particle=1,
    camera_distance_range=(1.0, 1.5),
    fovy_range=(40.0, 70.0),
    elevation_range=(-30.0, 90.0),
    front_threshold=30.0,
)


@dataclass(frozen=True)
class ProlificDreamerPreset(Preset):
    """ProlificDreamer (Wang et al. 2023) in up to three stages.

    field: a radiance field by VSD. geometry: its surface by SDS. texture: the colors of the surface
    by VSD. A scene has the first stage only, and so has the size world unless last_stage is given.

    Attributes:
        scene_type: initial density of the field. object: a ball. scene: a shell around the camera.
            mixed: both.

    References:
        Wang et al., ProlificDreamer: High-Fidelity and Diverse Text-to-3D Generation with
        Variational
        Score Distillation, arXiv 2305.16213. The numbers and their sources are in
        docs/presets/prolificdreamer.md.
    """

    name = "prolificdreamer"
    best_world_stage = "field"

    scene_type: str = "object"

    def __post_init__(self) -> None:
        if self.scene_type not in ("object", "scene", "mixed"):
            raise ValueError(f"scene_type must be object, scene or mixed, not {self.scene_type!r}")

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        if self.scene_type != "object":
            raise ValueError(
                f"scene_type {self.scene_type!r}: the embedded model knows objects only; use "
                "--preset.size full"
            )
        vsd = VSD(critic=SmallUNetCritic(camera=True, training=CriticTraining(lr=3e-3)))
        field = Experiment(
            prompts,
            method=vsd,
            representation=WORLD_NERF,
            cameras=WORLD_CAMERAS,
            timesteps=TwoStageTimesteps(),
            optimizer=Adam(decay_start=0.5),
            steps=600,
        )
        mesh = DMTet(
            grid_resolution=40, bound=1.2, texture=False, shading="lit", laplacian_weight=0.5
        )
        geometry = replace(
            field,
            method=SDS(guidance=15.0),
            representation=mesh,
            timesteps=UniformTimesteps(0.02, 0.5),
            steps=150,
        )
        # finer grids pick up specks and oversaturate
        encoding = DenseGridEncoding(resolutions=(8, 16, 32))
        textured = replace(
            mesh, geometry=False, texture=True, shading="texture", encoding=encoding, lr=5e-3
        )
        texture = replace(
            field, representation=textured, timesteps=UniformTimesteps(0.02, 0.5), steps=300
        )
        return {"field": field, "geometry": geometry, "texture": texture}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = self._full_field(prompts)
        if self.scene_type != "object":
            return {"field": field}
        cameras = replace(_FULL_CAMERAS, fovy_range=(30.0, 60.0))
        mesh = DMTet(
            grid_resolution=256,
            bound=1.0,
            texture=False,
            shading="normals",
            background=_FULL_BACKGROUND,
            encoding=_FULL_ENCODING,
            sdf_blur=0.0,
            laplacian_weight=0.5,
            normal_consistency_weight=5000.0,
            lr=1e-3,
            sdf_lr=5e-3,
            deform_lr=5e-3,
        )
        geometry = replace(
            field,
            method=SDS(guidance=100.0),
            representation=mesh,
            cameras=cameras,
            timesteps=UniformTimesteps(0.02, 0.5),
            steps=15_000,
        )
        textured = replace(mesh, geometry=False, texture=True, shading="texture")
        texture = replace(
            field,
            representation=textured,
            cameras=cameras,
            timesteps=UniformTimesteps(0.02, 0.5),
            steps=30_000,
        )
        return {"field": field, "geometry": geometry, "texture": texture}

    def _full_field(self, prompts: tuple[str, ...]) -> Experiment:
        is_object = self.scene_type == "object"
        density_inits: dict[str, DensityInit] = {
            "object": Magic3DDensityInit(10.0, 0.5),
            "scene": SceneDensityInit(-10.0, 2.5),
            "mixed": MixedDensityInit(),
        }
        nerf = NeRF(
            encoding=_FULL_ENCODING,
            decoder=MLPDecoder(32),
            density_init=density_inits[self.scene_type],
            background=_FULL_BACKGROUND,
            bound=1.0 if is_object else 5.0,
            samples=64 if is_object else 512,
            importance_samples=32 if is_object else 0,
            resolution=64,
            resolution_late=512,
            resolution_switch=0.2,
            lr=1e-3,
            density_noise=1.0,
            entropy_weight=10.0 if is_object else 0.0,
            occupancy_resolution=64,
        )
        cameras = _FULL_CAMERAS
        if not is_object:
            cameras = replace(
                cameras,
                camera_distance_range=(0.1, 2.3),
                elevation_range=(-10.0, 45.0),
                view_prompts=("", "", "", ""),
            )
        return Experiment(
            prompts,
            model=STABLE_DIFFUSION,
            method=VSD(critic=LoRACritic(rank=4, camera=True, training=CriticTraining(lr=1e-4))),
            representation=nerf,
            cameras=cameras,
            timesteps=TwoStageTimesteps(0.02, 0.98, 0.5, 0.2 if is_object else 0.4),
            optimizer=Adam(decay_start=1.0),
            batch_size=1,
            steps=25_000,
        )
