"""Tiny pipelines of every family of diffusers, and helpers of their tests."""

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
    """The pipeline of diffusers in a folder; SD3 does not write that it has no T5."""
    cls = getattr(diffusers, prior.pipeline_name)
    if cls is diffusers.StableDiffusion3Pipeline and not (folder / "text_encoder_3").is_dir():
        parts |= {"text_encoder_3": None, "tokenizer_3": None}
    pipe = cls.from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    if prior.network_name == "unet":
        pipe.scheduler = to_ddim(pipe.scheduler)
    return pipe


def train_lora_critic(prior, n=2, rank=3, init_from=None):
    """A run of VSD after ``n`` steps of its LoRA critic."""
    method = VSD(7.5, critic=LoRACritic(rank, CriticTraining(lr=1e-2), init_from))
    run = Run(Experiment(("a red mug",), method=method, particles=2, steps=n), prior)
    for _ in range(n):
        run.advance()
    return run


def predict_eps(prior, *conditions):
    """eps of a prior at one random x_t, for each condition of 3 rows."""
    xt = normal(3, *prior.shape, dtype=torch.float32)
    with torch.no_grad():
        return [prediction.eps for prediction in prior(xt, TIMES, *conditions)]
