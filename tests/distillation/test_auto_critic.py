"""The default critic: which kind it is on which prior, and its learning rate."""

from limbeck.distillation.critics import auto
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.priors.loading import load
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

FAST = CriticTraining(steps=2)


def test_the_embedded_model_gets_a_small_unet():
    assert AutoCritic(training=FAST).choose(load("world")) == SmallUNetCritic(training=FAST)


def test_a_large_network_gets_adapters(eps_folder, monkeypatch):
    prior = StableDiffusion(str(eps_folder))
    assert AutoCritic(4, FAST).choose(prior) == SmallUNetCritic(training=FAST)
    size = sum(p.numel() for p in prior.network.parameters())
    monkeypatch.setattr(auto, "_SMALL_NETWORK", size)
    assert AutoCritic(4, FAST).choose(prior) == LoRACritic(4, FAST)


def test_an_exact_prior_gets_an_exact_critic():
    assert AutoCritic().choose(colored_shapes()) == ExactCritic()


def test_the_learning_rate_is_that_of_the_critic_unless_given(eps_folder):
    def lr(critic):
        experiment = Experiment(("a red mug",), method=VSD(critic=critic))
        run = Run(experiment, StableDiffusion(str(eps_folder)))
        return run.state._trainer.optimizer.param_groups[0]["lr"]

    assert (lr(AutoCritic()), lr(SmallUNetCritic()), lr(LoRACritic())) == (3e-3, 3e-3, 1e-3)
    given = CriticTraining(lr=5e-4)
    assert lr(SmallUNetCritic(training=given)) == lr(LoRACritic(training=given)) == 5e-4
