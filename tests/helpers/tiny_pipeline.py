"""A tiny pipeline of random weights, and helpers of many test files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import DiscreteSchedule, NoiseSchedule
from limbeck.distillation.inputs import StepInputs
from limbeck.system.random import RowRandom

WORDS = ["a red mug", "a blue chair, on grey", "two striped cats", "low quality"]
LENGTH, WIDTH = 12, 32


def make_scheduler(prediction_type: str):
    """A DDIM scheduler that samples as ``limbeck.diffusion.sampling.sample`` does.

    It has the betas of Stable Diffusion, zero terminal SNR for v, and trailing spacing whose last
    step ends at alpha = 1.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=prediction_type == "v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        set_alpha_to_one=True,
    )


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    return CLIPTextModel(config)


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )
    # untrained attention has little effect, but in tests the text must matter
    for name, weight in unet.named_parameters():
        if name.endswith(("to_v.weight", "to_out.0.weight")):
            weight.data *= 4
    return unet


def _autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=8,
    )


def write_pipeline(folder: Path, prediction_type: str) -> Path:
    """Write a StableDiffusionPipeline of random weights, with 8x8 latents and 16x16 images."""
    from diffusers import StableDiffusionPipeline

    from limbeck.world.denoiser import build_tokenizer

    tokenizer = build_tokenizer(WORDS, folder / "words")
    tokenizer.model_max_length = LENGTH
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        text_encoder, unet, vae = _text_encoder(tokenizer), _unet(), _autoencoder()
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=make_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def zero_snr_schedule() -> DiscreteSchedule:
    """A short table whose last alpha is 0."""
    return DiscreteSchedule(tuple(torch.linspace(0.999, 0.0, 50, dtype=torch.float64).tolist()))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row_rng(rows: int, seed: int = 0, step: int = 0) -> RowRandom:
    """Random numbers of rows of different particles."""
    return RowRandom.of_step(seed, step, torch.arange(rows))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64).to(dtype)


def class_conditions(rows: int, null: tuple[float, ...], pos: tuple[float, ...]) -> Conditions:
    """Conditions of a mixture from the weights of its components."""
    pos_data, null_data = (f64(list(weights)).log().expand(rows, -1) for weights in (pos, null))
    return Conditions(Condition(pos_data), Condition(null_data))


def prompt_conditions(prior: Prior, prompts: list[str]) -> Conditions:
    return Conditions(prior.condition(prompts), prior.condition([""] * len(prompts)))


def make_inputs(
    schedule: NoiseSchedule,
    x0: Tensor,
    t: Tensor | float,
    eps: Tensor,
    conditions: Conditions,
    particle: Tensor | None = None,
) -> StepInputs:
    """The inputs of a step, with a fixed generator."""
    t = torch.full((len(x0),), t, dtype=torch.float64) if isinstance(t, float) else t
    return StepInputs(
        x0,
        schedule.snap(t),
        eps,
        conditions,
        torch.arange(len(x0)) if particle is None else particle,
        row_rng(len(x0), 99),
        schedule,
    )


def max_difference(a: Tensor, b: Tensor) -> float:
    """The greatest absolute difference, infinite if one is not finite."""
    assert a.shape == b.shape, (a.shape, b.shape)
    difference = (a.detach().double() - b.detach().double()).abs()
    return float(difference.max()) if bool(difference.isfinite().all()) else float("inf")


def f64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def count_calls(prior, function):
    """The result of ``function()``, and the network calls and rows that it took."""
    counter = prior.call_counter
    calls, rows = counter.calls, counter.rows
    result = function()
    return result, (counter.calls - calls, counter.rows - rows)


def check_gradients(module: torch.nn.Module, loss, bound: float) -> None:
    """Check the gradients of ``loss()`` for every third number against central differences."""
    step = 1e-6
    module.zero_grad()
    loss().backward()
    with torch.no_grad():
        for name, p in module.named_parameters():
            flat = p.data.view(-1)
            for i in range(0, len(flat), 3):
                value, losses = flat[i].item(), []
                for sign in (1, -1):
                    flat[i] = value + sign * step
                    losses.append(float(loss()))
                flat[i] = value
                slope = (losses[0] - losses[1]) / (2 * step)
                assert abs(slope - float(p.grad.view(-1)[i])) < bound * (1 + abs(slope)), (name, i)
