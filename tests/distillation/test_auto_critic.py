"""The default critic: which kind it is on which prior, and its learning rate."""

import pytest
import torch

from limbeck.distillation.critics import auto
from limbeck.distillation.critics.auto import AutoCritic
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.network import NetworkCritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.inputs import SetupContext
from limbeck.methods.esd import ESD
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


def test_options_without_effect_are_refused():
    prior = colored_shapes()
    setup = SetupContext(1, 1, 0, torch.zeros(1, 3, 32, 32), ("a",))
    with pytest.raises(ValueError, match="rank 64 has no effect on this model, whose critic is ex"):
        AutoCritic(rank=64).build(prior, setup)
    with pytest.raises(ValueError, match=r"critic.training.steps has no effect on this model"):
        AutoCritic(training=FAST).build(prior, setup)
    with pytest.raises(ValueError, match=r"rank 64 .*give --method.critic lora"):
        AutoCritic(rank=64).build(load("world"), setup)
    assert ESD().critic.choose(prior) == ExactCritic()
    ESD().critic.build(prior, setup)


@pytest.mark.parametrize("critic", [AutoCritic, LoRACritic, NetworkCritic, SmallUNetCritic])
def test_dropout_of_a_camera_that_is_not_there_is_refused(critic):
    with pytest.raises(ValueError, match=r"training.camera_dropout 0.5 has no effect without the"):
        critic(training=CriticTraining(camera_dropout=0.5))


def test_the_learning_rate_is_that_of_the_critic_unless_given(eps_folder):
    def lr(critic):
        experiment = Experiment(("a red mug",), method=VSD(critic=critic))
        run = Run(experiment, StableDiffusion(str(eps_folder)))
        return run.state._trainer.optimizer.param_groups[0]["lr"]

    assert (lr(AutoCritic()), lr(SmallUNetCritic()), lr(LoRACritic())) == (3e-3, 3e-3, 1e-3)
    given = CriticTraining(lr=5e-4)
    assert lr(SmallUNetCritic(training=given)) == lr(LoRACritic(training=given)) == 5e-4
