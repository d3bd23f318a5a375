"""Random pipelines small enough to test with, and the few helpers that every test file shares."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import DiscreteSchedule, NoiseSchedule
from limbeck.distillation.inputs import StepInputs

WORDS = ["a red mug", "a blue chair, on grey", "two striped cats", "low quality"]
LENGTH, WIDTH = 12, 32


def make_scheduler(prediction: str):
    """Stable Diffusion's betas, "trailing" spacing ending at alpha = 1, zero terminal signal for v; what ``sample`` does."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type=prediction, rescale_betas_zero_snr=prediction == "v_prediction", timestep_spacing="trailing",
        steps_offset=1, set_alpha_to_one=True,
    )  # fmt: skip


def write_pipeline(folder: Path, prediction: str) -> Path:
    """A StableDiffusionPipeline of random weights: 8x8 latents, 16x16 images, its own words."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from limbeck.world.denoiser import build_tokenizer

    tokenizer = build_tokenizer(WORDS, folder / "words")
    tokenizer.model_max_length = LENGTH
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=64, projection_dim=WIDTH, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.5,
        ))  # fmt: skip
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH, attention_head_dim=4,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4, sample_size=16, layers_per_block=1, norm_num_groups=8,
        )  # fmt: skip
        for (
            name,
            weight,
        ) in (
            unet.named_parameters()
        ):  # untrained attention hardly speaks; here the text must matter
            if name.endswith(("to_v.weight", "to_out.0.weight")):
                weight.data *= 4
    pipe = StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text.eval(), tokenizer=tokenizer, unet=unet.eval(), scheduler=make_scheduler(prediction),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "pipe")
    return folder / "pipe"


def zero_snr_schedule() -> DiscreteSchedule:
    """A short table that ends without signal."""
    return DiscreteSchedule(tuple(torch.linspace(0.999, 0.0, 50, dtype=torch.float64).tolist()))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64).to(dtype)


def class_conditions(rows: int, null: tuple[float, ...], pos: tuple[float, ...]) -> Conditions:
    """Conditions of a mixture from the shares of its components."""
    data = [
        torch.tensor(shares, dtype=torch.float64).log().expand(rows, -1) for shares in (pos, null)
    ]
    return Conditions(Condition(data[0]), Condition(data[1]))


def prompt_conditions(prior: Prior, texts: list[str]) -> Conditions:
    return Conditions(prior.condition(texts), prior.condition([""] * len(texts)))


def make_inputs(
    schedule: NoiseSchedule,
    x0: Tensor,
    t: Tensor | float,
    eps: Tensor,
    told: Conditions,
    view: Tensor | None = None,
) -> StepInputs:
    """A sample as the loop would make it, from tensors of one's own."""
    t = torch.full((len(x0),), t, dtype=torch.float64) if isinstance(t, float) else t
    return StepInputs(
        x0,
        schedule.snap(t),
        eps,
        told,
        torch.arange(len(x0)) if view is None else view,
        rng(99),
        schedule,
    )


def max_difference(a: Tensor, b: Tensor) -> float:
    """Greatest absolute difference; never smaller for a nan."""
    assert a.shape == b.shape, (a.shape, b.shape)
    gap = (a.detach().double() - b.detach().double()).abs()
    return float("inf") if not bool(gap.isfinite().all()) else float(gap.max())


def f64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def count_calls(prior, act):
    """What ``act`` answers, and the calls and rows it took."""
    before = prior.call_counter.calls, prior.call_counter.rows
    out = act()
    return out, (prior.call_counter.calls - before[0], prior.call_counter.rows - before[1])


def check_gradients(made: torch.nn.Module, value, bound: float) -> None:
    """Every third parameter's gradient against central differences."""
    made.zero_grad()
    value().backward()
    with torch.no_grad():
        for name, p in made.named_parameters():
            flat = p.data.view(-1)
            for i in range(0, len(flat), 3):
                step, old = 1e-6, flat[i].item()
                ends = []
                for sign in (1, -1):
                    flat[i] = old + sign * step
                    ends.append(float(value()))
                flat[i] = old
                slope = (ends[0] - ends[1]) / (2 * step)
                assert abs(slope - float(p.grad.view(-1)[i])) < bound * (1 + abs(slope)), (name, i)
