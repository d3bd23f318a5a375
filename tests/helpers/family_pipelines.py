"""Tiny pipelines of every family of diffusers, and helpers of their tests."""

import diffusers
import torch
from tiny_families import WRITERS, to_ddim
from tiny_pipeline import normal

from limbeck.diffusion.model_options import Model
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

FAMILIES = list(WRITERS)
TIMES = torch.tensor([0.1, 0.5, 0.9])


def load_family(family, folder, **options):
    """The family's prior. Flux's files have no size, and the default one would be a megapixel."""
    resolution = 16 if family in ("flux", "schnell") else 0
    return load(Model(str(folder), resolution=resolution, **options), "cpu")


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


def with_network(prior, network):
    """The prior with another network."""
    prior.network = network
    if prior.network_name == "unet":
        prior.unet = network
    return prior


def same_predictions(a, b, prompts=("a red mug", "")):
    """Whether two priors predict the same, bit for bit."""
    xt = normal(2, *a.shape, dtype=torch.float32)
    with torch.no_grad():
        x0 = [prior(xt, TIMES[:2], prior.condition(list(prompts)))[0].x0 for prior in (a, b)]
    return torch.equal(*x0)
