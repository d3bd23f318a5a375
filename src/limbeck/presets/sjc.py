"""Score Jacobian Chaining, Wang et al. 2022, arXiv 2212.00774: a voxel field of latents."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.background import Solid
from limbeck.encodings.grid import Grid
from limbeck.experiment import Adam, Experiment
from limbeck.methods.sjc import SJC as Chaining
from limbeck.preset import SD, Preset
from limbeck.presets.dreamfusion import AROUND, SMALL
from limbeck.representations.field import Field
from limbeck.timesteps import TwoStage, Uniform
from limbeck.views import Orbit
from limbeck.weights import Uniform as Even


@dataclass(frozen=True)
class SJC(Preset):
    """A dense grid of latents by score Jacobian chaining."""

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = replace(SMALL, encoding=Grid(features=5), space="latent", resolution=0, late=0, rate=0.03, entropy=0.0, rise=0.0)
        return {"field": Experiment(
            prompts, method=Chaining(guidance=15.0), weight=Even(), representation=field, views=AROUND, timesteps=TwoStage(),
            optimizer=Adam(fall=0.5), steps=600,
        )}  # fmt: skip

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = Field(
            encoding=Grid(levels=(100,), features=5), background=Solid(rate=0.002), space="latent", half=1.0, samples=346,
            rate=0.05, opacity=70.0, cells=64,
        )  # fmt: skip
        views = Orbit(each=1, distance=(1.5, 1.5), fov=(40.0, 70.0), elevation=(-6.4, 90.0), over_area=1.0, overhead=41.8)
        return {"field": Experiment(
            prompts, model=SD, method=Chaining(guidance=100.0), weight=Even(), representation=field, views=views,
            timesteps=Uniform(0.01, 0.97), steps=10_000,
        )}  # fmt: skip
