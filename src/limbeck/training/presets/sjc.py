"""Score Jacobian Chaining, Wang et al. 2022, arXiv 2212.00774: a voxel field of latents."""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.distillation.timesteps.random import TwoStageTimesteps, UniformTimesteps
from limbeck.distillation.weights import UniformWeight as Even
from limbeck.graphics.cameras.views import Orbit
from limbeck.graphics.fields.background import SolidBackground
from limbeck.graphics.fields.encodings.dense_grid import DenseGridEncoding
from limbeck.methods.sjc import SJC as Chaining
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import SD, Preset
from limbeck.training.presets.dreamfusion import AROUND, SMALL


@dataclass(frozen=True)
class SJCPreset(Preset):
    """A dense grid of latents by score Jacobian chaining."""

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
            prompts, method=Chaining(guidance=15.0), weight=Even(), representation=field, cameras=AROUND, timesteps=TwoStageTimesteps(),
            optimizer=Adam(fall=0.5), steps=600,
        )}  # fmt: skip

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        field = NeRF(
            encoding=DenseGridEncoding(levels=(100,), features=5), background=SolidBackground(rate=0.002), space="latent", half=1.0, samples=346,
            rate=0.05, opacity=70.0, cells=64,
        )  # fmt: skip
        views = Orbit(
            per_particle=1,
            distance=(1.5, 1.5),
            fov=(40.0, 70.0),
            elevation=(-6.4, 90.0),
            uniform_sphere_prob=1.0,
            overhead=41.8,
        )
        return {"field": Experiment(
            prompts, model=SD, method=Chaining(guidance=100.0), weight=Even(), representation=field, cameras=views,
            timesteps=UniformTimesteps(0.01, 0.97), steps=10_000,
        )}  # fmt: skip
