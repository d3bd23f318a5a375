"""Tiny pipelines of every family of diffusers, and helpers of their tests."""

import math
from contextlib import contextmanager
from unittest.mock import patch

import diffusers
import torch
from tiny_families import WRITERS, to_ddim
from tiny_pipeline import normal, rng

from limbeck.diffusion.model_options import Model
from limbeck.diffusion.schedule import DiscreteSchedule
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.vsd import VSD
from limbeck.priors.loading import load
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

FAMILIES = list(WRITERS)
STEPS, PROMPT, OTHER = 5, "a red mug", "a blue chair, on grey"
TIMES = torch.tensor([0.1, 0.5, 0.9])


#: Families whose files have no size, and the default one would be a megapixel, or have that.
LARGE = ("flux", "schnell", "pixart-alpha", "flux2", "klein", "qwen")


def load_family(family, folder, **options):
    """The family's prior, for images of 16 x 16 pixels."""
    resolution = 16 if family in LARGE else 0
    return load(Model(str(folder), resolution=resolution, **options), "cpu")


def diffusers_pipeline(prior, folder, **parts):
    """The pipeline of diffusers in a folder; SD3 does not write that it has no T5."""
    cls = getattr(diffusers, prior.index["_class_name"])
    if cls is diffusers.StableDiffusion3Pipeline and not (folder / "text_encoder_3").is_dir():
        parts |= {"text_encoder_3": None, "tokenizer_3": None}
    pipe = cls.from_pretrained(folder, **parts)
    pipe.set_progress_bar_config(disable=True)
    if isinstance(prior.schedule, DiscreteSchedule):
        pipe.scheduler = to_ddim(pipe.scheduler)
    elif cls is diffusers.SanaPipeline:  # its solver is of second order
        shift = prior.schedule.shift
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    return pipe


def sample_with_pipeline(prior, folder, noise, guidance, pipe=None):
    """x0 of the pipeline's own sampler from ``noise``, which IF draws itself with seed 3."""
    pipe = pipe or diffusers_pipeline(prior, folder)
    height, width = prior.image_size
    options = {
        "num_inference_steps": STEPS,
        "guidance_scale": guidance,
        "output_type": "latent",
        "latents": noise.clone(),
    }
    name = type(pipe).__name__
    if name == "IFPipeline":
        del options["latents"]
        options |= {"output_type": "pt", "generator": rng(3), "clean_caption": False}
    if name == "FluxPipeline":
        options |= {
            "latents": pipe._pack_latents(noise, *noise.shape),
            "guidance_scale": 3.5,
            "true_cfg_scale": guidance,
            "negative_prompt": ["", ""],
            "max_sequence_length": 512 if pipe.transformer.config.guidance_embeds else 256,
        }
    if name.startswith("Flux2"):
        options |= {"latents": noise, "guidance_scale": guidance if "Klein" in name else 4.0}
    if name == "QwenImagePipeline":
        options |= {"latents": pipe._pack_latents(noise, *noise.shape), "guidance_scale": None}
        options |= {"true_cfg_scale": 1.0}
    if name == "Lumina2Pipeline":
        options |= {"cfg_normalization": False}
    if name.startswith(("PixArt", "Sana")):
        options |= {"use_resolution_binning": False, "clean_caption": False}
    if name == "SanaPipeline":  # any multiple of 32 does; the times are those of its own solver
        height = width = 32
        options |= {"sigmas": torch.linspace(1, 1 / STEPS, STEPS).tolist()}
    with klein_and_dev_shifted_as(prior):
        x0 = pipe(prompt=[PROMPT, OTHER], height=height, width=width, **options).images
    return unpack(pipe, x0, noise.shape)


def unpack(pipe, x, shape):
    """Latents of a pipeline, which may be packed as tokens, in the shape of x0."""
    is_flux2 = type(pipe).__name__.startswith("Flux2")
    if x.ndim == 4:
        # those that klein returns are what the autoencoder decodes
        return normalize_flux2(pipe, x) if is_flux2 else x
    b, c, h, w = shape
    if is_flux2:  # each latent is a token
        return x.mT.reshape(shape)
    tokens = x.reshape(b, h // 2, w // 2, c, 2, 2)
    return tokens.permute(0, 3, 1, 4, 2, 5).reshape(shape)


@contextmanager
def klein_and_dev_shifted_as(prior):
    """Let the pipelines of Flux.2, whose shift depends on the number of steps, use the prior's."""
    from diffusers.pipelines.flux2 import pipeline_flux2, pipeline_flux2_klein

    def mu(image_seq_len, num_steps):
        return math.log(prior.schedule.shift)

    with (
        patch.object(pipeline_flux2, "compute_empirical_mu", mu),
        patch.object(pipeline_flux2_klein, "compute_empirical_mu", mu),
    ):
        yield


def normalize_flux2(pipe, latents):
    """x0 of the latents of Flux.2's autoencoder."""
    mean, variance = pipe.vae.bn.running_mean, pipe.vae.bn.running_var
    std = (variance + pipe.vae.config.batch_norm_eps).sqrt()
    return (pipe._patchify_latents(latents) - mean[:, None, None]) / std[:, None, None]


def encode_with_pipeline(pipe, image):
    """x0 of images in [0, 1] by the autoencoder of a pipeline, normalized as the pipeline does."""
    image, config = image * 2 - 1, pipe.vae.config
    if type(pipe).__name__.startswith("Flux2"):
        return normalize_flux2(pipe, pipe.vae.encode(image).latent_dist.mode())
    if type(pipe).__name__ == "QwenImagePipeline":
        mean, std = (torch.tensor(config[key]) for key in ("latents_mean", "latents_std"))
        latents = pipe.vae.encode(image[:, :, None]).latent_dist.mode()[:, :, 0]
        return (latents - mean[:, None, None]) / std[:, None, None]
    encoded = pipe.vae.encode(image)
    latents = encoded.latent if "latent" in encoded else encoded.latent_dist.mode()
    return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor


def latents_of_pipeline(pipe, x0):
    """What the autoencoder of a pipeline decodes for x0."""
    config = pipe.vae.config
    if type(pipe).__name__.startswith("Flux2"):
        mean, variance = pipe.vae.bn.running_mean, pipe.vae.bn.running_var
        std = (variance + config.batch_norm_eps).sqrt()
        return pipe._unpatchify_latents(x0 * std[:, None, None] + mean[:, None, None])
    if type(pipe).__name__ == "QwenImagePipeline":
        mean, std = (torch.tensor(config[key]) for key in ("latents_mean", "latents_std"))
        return (x0 * std[:, None, None] + mean[:, None, None])[:, :, None]
    return x0 / config.scaling_factor + (config.get("shift_factor") or 0.0)


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
