"""The preset of a one-step generator: DMD2 without its GAN (arXiv 2405.14867)."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import UniformWeight
from limbeck.methods.dmd2 import DMD2
from limbeck.representations.generator import Generator
from limbeck.training.experiment import Experiment
from limbeck.training.optimizers import Adam
from limbeck.training.presets.base import Preset

BATCH_SIZE = 32  #: new samples per step, however many prompts are shown


@dataclass(frozen=True)
class OneStepPreset(Preset):
    """DMD2 (Yin et al. 2024) without its GAN: a generator that draws an image in one pass.

    The prompts are those that are shown while it trains, one sample of each. On the embedded model
    it is trained on the captions of all combinations that this model was trained on; on other
    models on the prompts, or on a file of them (--representation.captions).

    References:
        Yin et al., Improved Distribution Matching Distillation for Fast Image Synthesis, arXiv
        2405.14867. The numbers and their sources are in docs/presets/one-step.md.
    """

    def world(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        experiment = Experiment(
            prompts,
            method=DMD2(guidance=4.0, critic=NetworkCritic(training=CriticTraining(lr=3e-4))),
            weight=UniformWeight(),
            representation=Generator(lr=1e-4, ema=0.99, world_captions=True, critic_warmup=40),
            timesteps=UniformTimesteps(0.02, 0.98),
            optimizer=Adam(decay_start=0.5),
            batch_size=BATCH_SIZE,
            steps=450,
        )
        return {"generator": experiment}

    def full(self, prompts: tuple[str, ...]) -> dict[str, Experiment]:
        critic = NetworkCritic(training=CriticTraining(lr=1e-5))
        experiment = Experiment(
            prompts,
            model="stable-diffusion-v1-5/stable-diffusion-v1-5",
            method=DMD2(guidance=1.75, critic=critic),
            weight=UniformWeight(),
            representation=Generator(lr=1e-5, ema=0.999, critic_steps=10, critic_warmup=0),
            timesteps=UniformTimesteps(0.02, 0.98),
            optimizer=Adam(decay_start=1.0),
            batch_size=BATCH_SIZE,
            steps=40_000,
        )
        return {"generator": experiment}
