"""Evaluation of a small model that was trained on own images, without the world's evaluator."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.metrics.model_card import sample_captions
from limbeck.system.files import write_text
from limbeck.world.autoencoder import encode_means, psnr, reconstruct
from limbeck.world.denoiser import Denoiser, DenoiserTask, save_grid, tokenize
from limbeck.world.render_cache import images_to_tensor, load_captions, load_images

_MAX_IMAGES = 256
_MAX_LOSS_IMAGES = 128
_GRID_SIZE, _GRID_COLUMNS = 56, 14


@dataclass(frozen=True)
class ImageModelCard:
    """Metrics of a model of own images. Held-out images are a twentieth that training never shows.

    Attributes:
        train_images: number of training images.
        held_out_images: number of held-out images.
        vocabulary: number of tokens.
        psnr: peak signal-to-noise ratio in dB of the autoencoder on held-out images.
        train_loss: loss of the denoiser on training images, at fixed noise and times.
        held_out_loss: the same on held-out images; much above ``train_loss``: overfitted.
        nearest_samples: median over samples, for held-out captions, of the root mean square
            difference to the nearest training image, in [0, 1]; near 0: copies.
        nearest_held_out: the same for held-out images: what new images of this kind have.
        count: number of samples.
    """

    train_images: int
    held_out_images: int
    vocabulary: int
    psnr: float
    train_loss: float
    held_out_loss: float
    nearest_samples: float
    nearest_held_out: float
    count: int


def nearest_distance(
    images: Float[Tensor, "n 3 h w"], references: Float[Tensor, "m 3 h w"]
) -> float:
    """Return the median distance of images to the nearest of the references.

    Args:
        images: images in [0, 1].
        references: images in [0, 1].

    Returns:
        Root mean square difference, in [0, 1].
    """
    distances = torch.cdist(images.flatten(1), references.flatten(1)).amin(1)
    return (distances.median() / math.sqrt(images[0].numel())).item()


@torch.no_grad()
def denoising_loss(
    model: Denoiser,
    latents: Float[Tensor, "n 4 h w"],
    ids: Int[Tensor, "n tokens"],
    draws: int = 8,
) -> float:
    """Return the training loss of a denoiser at fixed times and noise.

    Args:
        model: text encoder and U-Net.
        latents: clean latents of N images.
        ids: token ids of their captions.
        draws: times per image, evenly spread.
    """
    rng = torch.Generator().manual_seed(0)
    t = ((torch.arange(draws) + 0.5) * 1000 / draws).long()
    losses = [
        model(z, i, t.roll(k)[torch.arange(len(z)) % draws], torch.randn(z.shape, generator=rng))
        for k in range(draws)
        for z, i in zip(latents.split(64), ids.split(64), strict=True)
    ]
    return torch.stack([loss["loss"] for loss in losses]).mean().item()


def write_image_model_card(
    folder: Path, training: Path, guidance: float = 5.0, seconds: float = math.inf
) -> dict:
    """Evaluate a pipeline on the images that its training held out.

    Writes card.json and grid.png, with samples for held-out captions, into its folder.

    Args:
        folder: folder of the pipeline.
        training: folder of the training, with the cached images.
        guidance: guidance scale of the samples.
        seconds: time after which no further samples are drawn, at least 28.

    Returns:
        The content of card.json.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    from limbeck.priors.stable_diffusion import StableDiffusion

    train, test = (load_images(training / part) for part in ("train", "test"))
    vae = AutoencoderKL.from_pretrained(training / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(str(training / "tokenizer"))
    settings = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    kind = {name: settings[name] for name in ("prediction_type", "snr_floor")}
    model = DenoiserTask(training, init_from=folder, **kind).build().eval()
    losses = []
    for part, images in (("train", train), ("test", test)):
        captions = load_captions(training / part, 0, 1)[0][:_MAX_LOSS_IMAGES]
        latents = encode_means(vae, images[:_MAX_LOSS_IMAGES])
        losses.append(denoising_loss(model, latents, tokenize(tokenizer, captions)))
    held_out, shown = images_to_tensor(test[:_MAX_IMAGES]), images_to_tensor(train)
    captions = load_captions(training / "test", 0, 1)[0]
    captions = (captions * (_GRID_SIZE // len(captions) + 1))[:_MAX_IMAGES]
    samples = sample_captions(StableDiffusion(str(folder)), captions, 50, guidance, 0, seconds)
    card = ImageModelCard(
        train_images=len(train),
        held_out_images=len(test),
        vocabulary=len(tokenizer),
        psnr=psnr(reconstruct(vae, held_out), held_out),
        train_loss=losses[0],
        held_out_loss=losses[1],
        nearest_samples=nearest_distance(samples, shown),
        nearest_held_out=nearest_distance(held_out, shown),
        count=len(samples),
    )
    save_grid(samples[:_GRID_SIZE], folder / "grid.png", _GRID_COLUMNS)
    content = {**asdict(card), "guidance": guidance}
    # last: a folder with a card is finished
    write_text(folder / "card.json", json.dumps(content, indent=1))
    return content
