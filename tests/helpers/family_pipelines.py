"""One tiny pipeline of every diffusers family, and what is asked of them."""

import diffusers
import pytest
import torch
from tiny_families import WRITERS, to_ddim
from tiny_pipeline import normal

from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

FAMILIES = list(WRITERS)


TIMES = torch.tensor([0.1, 0.5, 0.9])


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def diffusers_pipeline(prior, folder, **parts):
    """diffusers' pipeline of a folder; SD3 does not write down that it has no T5."""
    cls = getattr(diffusers, prior.pipeline_name)
    if not (folder / "text_encoder_3").is_dir() and prior.pipeline_name == "StableDiffusion3Pipeline":
        parts |= {"text_encoder_3": None, "tokenizer_3": None}
    pipe = cls.from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    if prior.network_name == "unet":
        pipe.scheduler = to_ddim(pipe.scheduler)
    return pipe


def train_lora_critic(prior, n=2, rank=3, start=None):
    """A run whose critic has learnt a little."""
    critic = LoRACritic(rank, CriticTraining(lr=1e-2), start)
    run = Run(
        Experiment(("a red mug",), method=VSD(7.5, critic=critic), particles=2, steps=n), prior
    )
    for _ in range(n):
        run.advance()
    return run


def predict_eps(prior, *conditions):
    with torch.no_grad():
        return [
            said.eps for said in prior(normal(3, *prior.shape, dtype=torch.float32), TIMES, *conditions)
        ]
