"""Tokenizer, text encoder and U-Net of the world, trained jointly from scratch on latents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from limbeck.world.render_cache import load_captions
from limbeck.world.trainer import Task

MAX_TOKENS = 20  #: Tokens of a caption of the world, with start and end.
_TEXT_WIDTH = 128  #: Channels of the text features.


def build_tokenizer(
    sentences: list[str], folder: Path, max_tokens: int = MAX_TOKENS
) -> CLIPTokenizer:
    """Train a byte-pair tokenizer in which every word of ``sentences`` is one token.

    Unknown words fall back to bytes.

    Args:
        sentences: texts whose words to know.
        folder: where the tokenizer is saved.
        max_tokens: tokens of a prompt, with start and end.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    # trained on each word once: a word must not be split because it is rare
    words = sorted({word for text in sentences for word in text.replace(",", " ,").split()})
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(words, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    # the trainer numbers bytes that end a word at random: in their order, a training is repeatable
    ends = sorted({letter + "</w>" for letter in alphabet})
    known = [end for end in ends if end in vocabulary]
    vocabulary |= zip(known, sorted(vocabulary[end] for end in known), strict=True)
    # as in CLIP: every byte also as the end of a word, and the two special tokens last
    for end in ends:
        vocabulary.setdefault(end, len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=max_tokens)
    tokenizer.save_pretrained(folder)  # its config keeps the maximum length
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Int[Tensor, "n tokens"]:
    """Return token ids, padded and truncated to the maximum length of the tokenizer."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained text encoder: 0.7 M parameters."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=512,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_unet() -> UNet2DConditionModel:
    """Return an untrained U-Net: 10.9 M parameters, attention only at 8x8 and 4x4 (cheap)."""
    net = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    # the backward of the fused kernel is slow on CPUs at this size
    net.set_attn_processor(AttnProcessor())
    return net


def build_scheduler(prediction_type: str) -> DDIMScheduler:
    """Return a scheduler with Stable Diffusion's betas.

    For ``v_prediction`` they are rescaled to zero terminal SNR, so that the text alone decides at
    t = 1.
    """
    v = prediction_type == "v_prediction"
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=v,
        timestep_spacing="trailing" if v else "leading",
        steps_offset=1,  # without effect for trailing spacing; diffusers warns of 0
        set_alpha_to_one=False,
    )


def mean_errors(
    per_row: Float[Tensor, "b"], weight: Float[Tensor, "b"], t: Int[Tensor, "b"]
) -> dict[str, Tensor]:
    """Return the weighted loss, and the unweighted error in the middle and late time steps."""
    return {
        "loss": (weight * per_row).mean(),
        "middle": per_row[(t > 300) & (t < 700)].mean(),
        "late": per_row[t >= 800].mean(),
    }


class Denoiser(nn.Module):
    """Text encoder and U-Net, with the training loss.

    The squared error of the implied x0 is weighted by min(SNR + snr_floor, 5): snr_floor 0 is
    min-SNR-5; above 0 it keeps the noisiest levels, where only the text informs the prediction,
    from being ignored under zero terminal SNR.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        text: CLIPTextModel,
        unet: UNet2DConditionModel,
        prediction_type: str,
        snr_floor: float,
    ):
        super().__init__()
        self.text, self.unet = text, unet
        self.prediction_type, self.snr_floor = prediction_type, snr_floor
        alphas_cumprod = build_scheduler(prediction_type).alphas_cumprod.clone()
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)

    def load(self, pipeline: Path) -> None:
        """Take the weights of a pipeline folder."""
        unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
        text = CLIPTextModel.from_pretrained(pipeline / "text_encoder")
        self.unet.load_state_dict(unet.float().state_dict())
        self.text.load_state_dict(text.float().state_dict())

    def forward(
        self,
        z: Float[Tensor, "b 4 16 16"],
        ids: Int[Tensor, "b tokens"],
        t: Int[Tensor, "b"],
        noise: Float[Tensor, "b 4 16 16"],
    ) -> dict[str, Tensor]:
        """Compute the training loss.

        Args:
            z: clean latents.
            ids: token ids of their captions.
            t: time steps, 0 to 999.
            noise: standard normal noise.

        Returns:
            ``loss``, and the unweighted error in the ``middle`` and ``late`` part of the times.
        """
        out = self.unet(self.add_noise(z, noise, t), t, self.text(ids).last_hidden_state).sample
        per_row, weight = self.errors(out.float(), z, noise, t)
        return mean_errors(per_row, weight, t)

    def add_noise(
        self, z: Float[Tensor, "b 4 16 16"], noise: Float[Tensor, "b 4 16 16"], t: Int[Tensor, "b"]
    ) -> Float[Tensor, "b 4 16 16"]:
        """Return noised latents."""
        abar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return abar.sqrt() * z + (1 - abar).sqrt() * noise

    def errors(
        self,
        out: Float[Tensor, "b 4 16 16"],
        z: Float[Tensor, "b 4 16 16"],
        noise: Float[Tensor, "b 4 16 16"],
        t: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """Return the mean squared error of each row, and its weight in the loss.

        Args:
            out: output of the U-Net.
            z: clean latents.
            noise: the noise in its input.
            t: time steps, 0 to 999.
        """
        abar = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        snr = (abar / (1 - abar)).flatten()
        weight = (snr + self.snr_floor).clamp(max=5.0)
        if self.prediction_type == "epsilon":  # |x0 error|^2 = |eps error|^2 / snr
            error, weight = (out - noise).square(), weight / snr
        else:  # |x0 error|^2 = sigma^2 |v error|^2
            error = (out - (alpha * noise - sigma * z)).square()
            weight = weight * (1 - abar).flatten()
        return error.mean((1, 2, 3)), weight


@dataclass(frozen=True)
class DenoiserTask(Task[Denoiser]):
    """Joint training of text encoder and U-Net; one caption in ten is empty, for guidance.

    Attributes:
        folder: holds latents.npy, captions.npy, tokenizer/ and vae/.
        batch_size: images per worker and step.
        prediction_type: ``v_prediction`` or ``epsilon``.
        snr_floor: added to the signal-to-noise ratio in the loss weight, see ``Denoiser``.
        init_from: pipeline folder whose text encoder and U-Net to start from; None: from scratch.
        name: name of the checkpoint and log files.
        lr: peak learning rate.
    """

    folder: Path
    batch_size: int = 32
    prediction_type: str = "v_prediction"
    snr_floor: float = 0.25
    init_from: Path | None = None
    name: str = "denoiser"
    lr: float = 1e-3

    def build(self) -> Denoiser:
        tokenizer = CLIPTokenizer.from_pretrained(str(self.folder / "tokenizer"))
        model = Denoiser(
            build_text_encoder(tokenizer), build_unet(), self.prediction_type, self.snr_floor
        )
        if self.init_from is not None:
            model.load(self.init_from)
        return model

    def preview(self, model: Denoiser, folder: Path, minute: float) -> dict[str, float]:
        """Save a grid of 28 samples for captions that training does not see.

        Returns:
            For renders the agreement of the samples with the captions, by the evaluator.
        """
        path = folder / f"{self.name}-{minute:06.1f}.png"
        if (self.folder / "test" / "captions.json").exists():
            captions = load_captions(self.folder / "test", 0, 1)[0]
            save_grid(_sample_preview(model, self.folder, captions[:28]), path)
            return {}
        return preview_grid(model, self.folder, path)

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        size = self.batch_size
        z = np.load(self.folder / "latents.npy", mmap_mode="r")
        ids = np.load(self.folder / "captions.npy", mmap_mode="r")  # [variants + 1 empty, N, L]
        rows = torch.randint(len(z), (size,), generator=rng)
        variant = torch.randint(len(ids) - 1, (size,), generator=rng)
        empty = torch.rand(size, generator=rng) < 0.1
        text = torch.from_numpy(ids[variant.numpy(), rows.numpy()].astype(np.int64))
        text[empty] = torch.from_numpy(ids[-1, 0].astype(np.int64))
        t = stratified_times(size, rng)
        latents = torch.from_numpy(z[rows.numpy()].astype(np.float32))
        return latents, text, t, torch.randn(latents.shape, generator=rng)


def stratified_times(count: int, rng: torch.Generator) -> Int[Tensor, "n"]:
    """Draw time steps that cover the whole range evenly, in random order.

    Args:
        count: number of time steps.
        rng: source of all randomness.
    """
    u = (torch.arange(count) + torch.rand(count, generator=rng)) / count
    return (u * 1000).long().clamp(max=999)[torch.randperm(count, generator=rng)]


@torch.no_grad()
def preview_sample(
    model: Denoiser,
    ids: Int[Tensor, "n tokens"],
    empty: Int[Tensor, "1 tokens"],
    steps: int,
    guidance: float,
    noise: Float[Tensor, "n 4 16 16"],
    class_labels: Float[Tensor, "n d"] | None = None,
) -> Float[Tensor, "n 4 16 16"]:
    """Sample latents by DDIM with classifier-free guidance, for previews.

    Args:
        model: text encoder and U-Net.
        ids: token ids of the captions.
        empty: token ids of the empty caption.
        steps: DDIM steps.
        guidance: guidance scale.
        noise: latents at t = 1.
        class_labels: input of the class embedding of the U-Net for each row, if it has one.
    """
    scheduler = build_scheduler(model.prediction_type)
    scheduler.set_timesteps(steps)
    text = model.text(torch.cat([empty.expand(len(ids), -1), ids])).last_hidden_state
    labels = None if class_labels is None else class_labels.repeat(2, 1)
    z = noise
    for t in scheduler.timesteps:
        both = model.unet(z.repeat(2, 1, 1, 1), t, text, class_labels=labels).sample
        uncond, cond = both.chunk(2)
        z = scheduler.step(uncond + guidance * (cond - uncond), t, z).prev_sample
    return z


def preview_grid(model: Denoiser, folder: Path, path: Path) -> dict[str, float]:
    """Sample two scenes per object from their full captions and save the grid.

    Args:
        model: text encoder and U-Net.
        folder: holds tokenizer/, vae/ and pipeline/ with the evaluator.
        path: image file to write.

    Returns:
        Share of the samples in which the evaluator names each attribute of the caption.
    """
    from limbeck.world.pretrained import load_evaluator
    from limbeck.world.scene import ATTRIBUTES, OBJECTS, full_captions, random_scenes

    scenes = random_scenes(2000, np.random.default_rng(77))
    first_two = [np.flatnonzero(scenes.object == i)[:2] for i in range(len(OBJECTS))]
    scenes = scenes[np.concatenate(first_two)]
    images = _sample_preview(model, folder, full_captions(scenes))
    save_grid(images, path)
    verdicts = load_evaluator(folder / "pipeline").judge(images)
    shares = (verdicts == torch.from_numpy(scenes.labels())).float().mean(0)
    return {f"right_{name}": round(shares[i].item(), 3) for i, name in enumerate(ATTRIBUTES)}


def _sample_preview(
    model: Denoiser, folder: Path, captions: list[str]
) -> Float[Tensor, "n 3 64 64"]:
    from diffusers import AutoencoderKL

    device = next(model.parameters()).device
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    ids, empty = tokenize(tokenizer, captions), tokenize(tokenizer, [""])
    noise = torch.randn(len(ids), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = preview_sample(
        model, ids.to(device), empty.to(device), steps=20, guidance=5.0, noise=noise.to(device)
    )
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    return (vae.decode(latents.float().cpu()).sample / 2 + 0.5).clamp(0, 1)


def save_grid(images: Float[Tensor, "n 3 h w"], path: Path, columns: int = 14) -> None:
    """Save images in rows; the last row is left out if it is not full and not the only one."""
    from PIL import Image

    from limbeck.graphics.export.png import to_uint8

    columns = min(columns, len(images))
    tiles = images[: len(images) // columns * columns].unflatten(0, (-1, columns))
    grid = tiles.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    Image.fromarray(to_uint8(grid[None])[0]).save(path)
