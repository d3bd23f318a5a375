"""Latent-NeRF, Metzer et al. 2022, arXiv 2211.07600: a radiance field whose colours are latents, so that nothing is encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.blob import Gaussian
from limbeck.decoder import Small
from limbeck.encodings.grid import Grid
from limbeck.encodings.hashed import Hashed
from limbeck.experiment import Adam, Experiment
from limbeck.methods.sds import SDS
from limbeck.preset import SD, Preset
from limbeck.presets.dreamfusion import AROUND, SMALL
from limbeck.representations.field import Field
from limbeck.timesteps import TwoStage, Uniform
from limbeck.views import Orbit
from limbeck.weights import Fantasia3D


@dataclass(frozen=True)
class LatentNeRF(Preset):
    """A field that renders latents by SDS; no autoencoder in the loop."""

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = replace(SMALL, encoding=Grid(features=5), space="latent", resolution=0, late=0, rate=0.03, entropy=0.0, rise=0.0)
        return {"field": Experiment(
            prompts, method=SDS(guidance=15.0), representation=field, views=AROUND, timesteps=TwoStage(), optimizer=Adam(fall=0.5),
            steps=600,
        )}  # fmt: skip

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = Field(
            encoding=Hashed(smooth=False, rate=10.0), decoder=Small(64), blob=Gaussian(5.0, 0.2), density="exp", space="latent",
            half=1.0, samples=128, rate=1e-3, entropy=7.2e-4, cells=64,
        )  # fmt: skip
        views = Orbit(each=1, distance=(1.0, 1.5), fov=(40.0, 70.0), elevation=(-60.0, 90.0), over_area=0.0, front=70.0)
        return {"field": Experiment(
            prompts, model=SD, method=SDS(guidance=100.0), weight=Fantasia3D(), representation=field, views=views,
            timesteps=Uniform(0.02, 0.98), steps=5_000,
        )}  # fmt: skip
