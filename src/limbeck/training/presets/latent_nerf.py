"""Latent-NeRF, Metzer et al. 2022, arXiv 2211.07600: a radiance field whose colours are latents, so that nothing is encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import Fantasia3DWeight
from limbeck.graphics.cameras.views import Orbit
from limbeck.graphics.fields.decoders import MLPDecoder
from limbeck.graphics.fields.density_init import GaussianDensityInit
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.graphics.fields.encodings.hash_grid import HashGridEncoding
from limbeck.methods.sds import SDS
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import SD, Preset
from limbeck.training.presets.dreamfusion import AROUND, SMALL


@dataclass(frozen=True)
class LatentNeRFPreset(Preset):
    """A field that renders latents by SDS; no autoencoder in the loop."""

    name = "latent-nerf"

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = replace(
            SMALL,
            encoding=DenseGridEncoding(features=5),
            space="latent",
            resolution=0,
            late=0,
            rate=0.03,
            entropy=0.0,
            rise=0.0,
        )
        return {"field": Experiment(
            prompts, method=SDS(guidance=15.0), representation=field, cameras=AROUND, timesteps=TwoStageTimesteps(), optimizer=Adam(fall=0.5),
            steps=600,
        )}  # fmt: skip

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = NeRF(
            encoding=HashGridEncoding(smooth=False, rate=10.0), decoder=MLPDecoder(64), blob=GaussianDensityInit(5.0, 0.2), density="exp", space="latent",
            half=1.0, samples=128, rate=1e-3, entropy=7.2e-4, cells=64,
        )  # fmt: skip
        views = Orbit(
            per_particle=1,
            distance=(1.0, 1.5),
            fov=(40.0, 70.0),
            elevation=(-60.0, 90.0),
            uniform_sphere_prob=0.0,
            front=70.0,
        )
        return {"field": Experiment(
            prompts, model=SD, method=SDS(guidance=100.0), weight=Fantasia3DWeight(), representation=field, cameras=views,
            timesteps=UniformTimesteps(0.02, 0.98), steps=5_000,
        )}  # fmt: skip
