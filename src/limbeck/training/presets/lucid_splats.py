"""LucidDreamer, Liang et al. 2023, arXiv 2311.11284: interval score matching on Gaussian splats."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.distillation.timesteps.random import ISMTimesteps as Lowered
from limbeck.distillation.timesteps.random import TwoStageTimesteps
from limbeck.distillation.weights import LambdaWeight
from limbeck.graphics.cameras.views import Orbit
from limbeck.graphics.fields.background import RandomBackground
from limbeck.methods.ism import ISM
from limbeck.representations.gaussian_splats import GaussianSplats
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import SD, Preset
from limbeck.training.presets.dreamfusion import AROUND


@dataclass(frozen=True)
class LucidSplatsPreset(Preset):
    """Gaussian splats by interval score matching, as LucidDreamer does it."""

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        return {"splats": Experiment(
            prompts, method=ISM(guidance=7.5), representation=GaussianSplats(), cameras=AROUND, timesteps=TwoStageTimesteps(),
            optimizer=Adam(fall=0.5), steps=400,
        )}  # fmt: skip

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        splats = GaussianSplats(
            count=100_000, radius=0.5, opacity=0.1, background=RandomBackground(chance=0.66), every=100, until=0.6, dead=0.005, small=10.0,
            rate_mean=5.6e-4, rate_scale=5e-3, rate_turn=1e-3, rate_opacity=0.05, rate_colour=5e-3,
        )  # fmt: skip
        views = Orbit(
            per_particle=4, distance=(4.0, 5.0), fov=(9.2, 34.4), elevation=(-15.0, 45.0), uniform_sphere_prob=0.0, camera_perturb=0.025, center_perturb=0.05, up_perturb=0.01,
            blend=True,
        )  # fmt: skip
        return {"splats": Experiment(
            prompts, model=SD, method=ISM(guidance=7.5), weight=LambdaWeight(), representation=splats, cameras=views,
            timesteps=Lowered(per_row=False), optimizer=Adam(fall=0.0), steps=5_000,
        )}  # fmt: skip
