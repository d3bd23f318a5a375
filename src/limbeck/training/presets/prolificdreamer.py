"""ProlificDreamer, Wang et al. 2023, arXiv 2305.16213: a radiance field by VSD, its surface by SDS, its texture by VSD."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.graphics.cameras.views import Orbit
from limbeck.graphics.fields.background import EnvironmentBackground
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import (
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
from limbeck.training.presets.base import SD, Preset
from limbeck.training.presets.dreamfusion import AROUND, SMALL


@dataclass(frozen=True)
class ProlificDreamerPreset(Preset):
    """A radiance field by VSD, then its surface by SDS, then the surface's colours by VSD: field, geometry, texture.

    place: what the field begins as; object a ball, scene a shell around the camera, mixed both. A scene has one stage, the field.
    """

    name = "prolificdreamer"

    place: str = "object"

    def __post_init__(self) -> None:
        if self.place not in ("object", "scene", "mixed"):
            raise ValueError(f"place is one of object, scene, mixed, not {self.place!r}")

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        if self.place != "object":
            raise ValueError(
                f"place {self.place!r}: the embedded model knows objects only; take --preset.size full"
            )
        vsd = VSD(critic=SmallUNetCritic(camera=True, learning=CriticTraining(rate=3e-3)))
        field = Experiment(
            prompts,
            method=vsd,
            representation=SMALL,
            cameras=AROUND,
            timesteps=TwoStageTimesteps(),
            optimizer=Adam(fall=0.5),
            steps=600,
        )
        shape = DMTet(cells=40, half=1.2, texture=False, shading="lit", laplacian=0.5)
        geometry = replace(
            field,
            method=SDS(guidance=15.0),
            representation=shape,
            timesteps=UniformTimesteps(0.02, 0.5),
            steps=150,
        )
        coarse = DenseGridEncoding(levels=(8, 16, 32))  # finer ones take up specks and burn out
        painted = replace(
            shape, geometry=False, texture=True, shading="texture", encoding=coarse, rate=5e-3
        )
        texture = replace(
            field, representation=painted, timesteps=UniformTimesteps(0.02, 0.5), steps=300
        )
        return {"field": field, "geometry": geometry, "texture": texture}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        vsd = VSD(critic=LoRACritic(rank=4, camera=True, learning=CriticTraining(rate=1e-4)))
        blob = {
            "object": Magic3DDensityInit(10.0, 0.5),
            "scene": SceneDensityInit(-10.0, 2.5),
            "mixed": MixedDensityInit(),
        }[self.place]
        near, known, behind = (
            self.place == "object",
            HashGridEncoding(rate=10.0),
            EnvironmentBackground(layers=1, chance=0.5),
        )
        nerf = NeRF(
            encoding=known, decoder=MLPDecoder(32), blob=blob, background=behind, half=1.0 if near else 5.0,
            samples=64 if near else 512, importance=32 if near else 0, resolution=64, late=512, switch=0.2, rate=1e-3, noise=1.0,
            entropy=10.0 if near else 0.0, cells=64,
        )  # fmt: skip
        wide = Orbit(
            per_particle=1,
            distance=(1.0, 1.5),
            fov=(40.0, 70.0),
            elevation=(-30.0, 90.0),
            front=60.0,
        )
        if not near:
            wide = replace(
                wide, distance=(0.1, 2.3), elevation=(-10.0, 45.0), view_prompts=("", "", "", "")
            )
        times = TwoStageTimesteps(0.02, 0.98, 0.5, 0.2 if near else 0.4)
        field = Experiment(
            prompts,
            model=SD,
            method=vsd,
            representation=nerf,
            cameras=wide,
            timesteps=times,
            batch_size=1,
            steps=25_000,
        )
        if not near:
            return {"field": field}
        close = replace(wide, fov=(30.0, 60.0))
        shape = DMTet(
            cells=256, half=1.0, texture=False, shading="normals", background=behind, encoding=known, smooth=0.0, laplacian=0.5,
            bending=5000.0, rate=1e-3, rate_sdf=5e-3, rate_deform=5e-3,
        )  # fmt: skip
        geometry = replace(
            field,
            method=SDS(guidance=100.0),
            representation=shape,
            cameras=close,
            timesteps=UniformTimesteps(0.02, 0.5),
            steps=15_000,
        )
        painted = replace(shape, geometry=False, texture=True, shading="texture")
        texture = replace(
            field,
            representation=painted,
            cameras=close,
            timesteps=UniformTimesteps(0.02, 0.5),
            steps=30_000,
        )
        return {"field": field, "geometry": geometry, "texture": texture}
