"""LucidDreamer, Liang et al. 2023, arXiv 2311.11284: interval score matching on Gaussian splats."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.experiment import Adam, Experiment
from limbeck.methods.ism import ISM
from limbeck.preset import SD, Preset
from limbeck.representations.splats import Splats
from limbeck.timesteps import TwoStage, Uniform
from limbeck.views import Orbit
from limbeck.weights import Lambda


@dataclass(frozen=True)
class LucidSplats(Preset):
    """Gaussian splats by interval score matching, as LucidDreamer does it."""

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        return {"splats": Experiment(
            prompts, method=ISM(guidance=7.5), representation=Splats(), timesteps=TwoStage(), optimizer=Adam(fall=0.5), steps=400
        )}  # fmt: skip

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        splats = Splats(count=100_000, every=100)
        views = Orbit(each=4, distance=(1.5, 2.0), fov=(40.0, 60.0), elevation=(-10.0, 60.0))
        return {"splats": Experiment(
            prompts, model=SD, method=ISM(guidance=7.5), weight=Lambda(), representation=splats, views=views,
            timesteps=Uniform(0.02, 0.5), steps=5_000,
        )}  # fmt: skip
