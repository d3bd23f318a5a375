"""Tokenizer, text encoder and U-Net of the world, trained jointly from scratch on latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from limbeck.world.trainer import Task

LENGTH = 20  #: tokens of a prompt, with begin and end
WIDTH = 128  #: of the text features


def build_tokenizer(sentences: list[str], folder: Path) -> CLIPTokenizer:
    """Byte-pair encoding in which every word of ``sentences`` becomes one token; unknown words fall back to bytes."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    # trained on each word once: a word must not be split because it is rare
    words = sorted({word for text in sentences for word in text.replace(",", " ,").split()})
    tool = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tool.normalizer = normalizers.Lowercase()
    tool.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, min_frequency=1, initial_alphabet=alphabet, end_of_word_suffix="</w>",
                                  show_progress=False)  # fmt: skip
    tool.train_from_iterator(words, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tool.model.save(str(folder))
    import json

    vocab = json.loads((folder / "vocab.json").read_text())
    # as in CLIP: every byte also as the end of a word, and the two specials last
    for letter in sorted(alphabet):
        vocab.setdefault(letter + "</w>", len(vocab))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)  # the length is kept in its configuration
    return tokenizer


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Int[Tensor, "n length"]:
    """Token ids, padded and cut to ``LENGTH``."""
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Untrained text encoder, 0.7 M parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=512, projection_dim=WIDTH, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def build_unet() -> UNet2DConditionModel:
    """Untrained U-Net, 10.9 M parameters; attention only where it is cheap, at 8x8 and 4x4."""
    net = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip
    net.set_attn_processor(
        AttnProcessor()
    )  # the fused kernel's backward is slow on CPUs at this size
    return net


def build_scheduler(prediction: str) -> DDIMScheduler:
    """Stable Diffusion's betas; for ``v_prediction`` with zero terminal signal, so that the text alone decides at t = 1."""
    v = prediction == "v_prediction"
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type=prediction, rescale_betas_zero_snr=v, timestep_spacing="trailing" if v else "leading",
        steps_offset=0 if v else 1, set_alpha_to_one=False,
    )  # fmt: skip


class Denoising(nn.Module):
    """Text encoder and U-Net with the training loss.

    The squared error of the implied x0 is weighted by min(snr + floor, 5): floor 0 is min-SNR-5, and a floor above 0 keeps the
    noisiest levels, where the text alone speaks, from being forgotten under zero terminal signal.
    """

    abar: Tensor

    def __init__(self, tokenizer: CLIPTokenizer, prediction: str, floor: float):
        super().__init__()
        self.text = build_text_encoder(tokenizer)
        self.unet = build_unet()
        self.prediction, self.floor = prediction, floor
        self.register_buffer(
            "abar", build_scheduler(prediction).alphas_cumprod.clone(), persistent=False
        )

    def forward(self, z: Tensor, ids: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        abar = self.abar[t].view(-1, 1, 1, 1)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        zt = alpha * z + sigma * noise
        out = self.unet(zt, t, self.text(ids).last_hidden_state).sample.float()
        snr = (abar / (1 - abar)).flatten()
        weight = (snr + self.floor).clamp(max=5.0)
        if self.prediction == "epsilon":  # |x0 error|^2 = |eps error|^2 / snr
            error, weight = (out - noise).square(), weight / snr
        else:  # |x0 error|^2 = sigma^2 |v error|^2
            error, weight = (
                (out - (alpha * noise - sigma * z)).square(),
                weight * (1 - abar).flatten(),
            )
        each = error.mean((1, 2, 3))
        return {
            "loss": (weight * each).mean(),
            "middle": each[(t > 300) & (t < 700)].mean(),
            "late": each[t >= 800].mean(),
        }


@dataclass(frozen=True)
class DenoiserTask(Task[Denoising]):
    """Joint training; one caption in ten is empty, for guidance."""

    folder: Path  #: holds latents.npy, captions.npy and tokenizer/
    size: int = 32
    prediction: str = "v_prediction"
    floor: float = 0.25
    start: Path | None = None  #: a pipeline folder whose text encoder and U-Net to begin with
    name: str = "denoiser"
    rate: float = 1e-3

    def build(self) -> Denoising:
        model = Denoising(
            CLIPTokenizer.from_pretrained(str(self.folder / "tokenizer")),
            self.prediction,
            self.floor,
        )
        if self.start is not None:
            model.unet.load_state_dict(
                UNet2DConditionModel.from_pretrained(self.start / "unet").float().state_dict()
            )
            model.text.load_state_dict(
                CLIPTextModel.from_pretrained(self.start / "text_encoder").float().state_dict()
            )
        return model

    def preview(self, model: Denoising, folder: Path, minute: float) -> dict[str, float]:
        """A grid of 28 prompts, two per object, and how many of them the evaluator sees as asked."""
        return preview_grid(model, folder, self.folder, minute, self.name)

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        z = np.load(self.folder / "latents.npy", mmap_mode="r")
        ids = np.load(self.folder / "captions.npy", mmap_mode="r")  # [variants + empty row]
        rows = torch.randint(len(z), (self.size,), generator=rng)
        variant = torch.randint(len(ids) - 1, (self.size,), generator=rng)
        empty = torch.rand(self.size, generator=rng) < 0.1
        text = torch.from_numpy(ids[variant.numpy(), rows.numpy()].astype(np.int64))
        text[empty] = torch.from_numpy(ids[-1, 0].astype(np.int64))
        # stratified times: every batch covers the whole range
        u = (torch.arange(self.size) + torch.rand(self.size, generator=rng)) / self.size
        t = (u * 1000).long().clamp(max=999)[torch.randperm(self.size, generator=rng)]
        latents = torch.from_numpy(z[rows.numpy()].astype(np.float32))
        return latents, text, t, torch.randn(latents.shape, generator=rng)


@torch.no_grad()
def preview_sample(model: Denoising, ids: Int[Tensor, "n l"], empty: Int[Tensor, "1 l"], steps: int, scale: float, seed: int = 0,
           noise: Float[Tensor, "n 4 16 16"] | None = None) -> Float[Tensor, "n 4 16 16"]:  # fmt: skip
    """DDIM with guidance, for previews during training."""
    scheduler = build_scheduler(model.prediction)
    scheduler.set_timesteps(steps)
    text = model.text(torch.cat([empty.expand(len(ids), -1), ids])).last_hidden_state
    z = (
        torch.randn(len(ids), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
        if noise is None
        else noise
    )
    for t in scheduler.timesteps:
        null, out = model.unet(z.repeat(2, 1, 1, 1), t, text).sample.chunk(2)
        z = scheduler.step(null + scale * (out - null), t, z).prev_sample
    return z


def preview_grid(
    model: Denoising, out: Path, folder: Path, minute: float, name: str
) -> dict[str, float]:
    """Sample two scenes per object with their full captions, save the grid, return the evaluator's agreement."""
    from diffusers import AutoencoderKL
    from PIL import Image

    from limbeck.world.pretrained import load_evaluator
    from limbeck.world.scene import ATTRIBUTES, OBJECTS, full_captions, random_scenes

    device = next(model.parameters()).device
    scenes = random_scenes(2000, np.random.default_rng(77))
    scenes = scenes[
        np.concatenate([np.flatnonzero(scenes.object == i)[:2] for i in range(len(OBJECTS))])
    ]
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    ids, empty = tokens(tokenizer, full_captions(scenes)), tokens(tokenizer, [""])
    noise = torch.randn(len(ids), 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    z = preview_sample(model, ids.to(device), empty.to(device), 20, 5.0, noise=noise).float().cpu()
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    images = (vae.decode(z).sample / 2 + 0.5).clamp(0, 1)
    grid = images.unflatten(0, (-1, 14)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray((grid.numpy() * 255).round().astype(np.uint8)).save(
        out / f"{name}-{minute:06.1f}.png"
    )
    right = (
        (load_evaluator(folder / "pipeline").judge(images) == torch.from_numpy(scenes.labels()))
        .float()
        .mean(0)
    )
    return {f"right_{key}": round(right[i].item(), 3) for i, key in enumerate(ATTRIBUTES)}
