"""All training stages of the embedded world model, from renders to a pipeline folder."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file

from limbeck.world.autoencoder import (
    AutoencoderTask,
    encode_means,
    psnr,
    reconstruct,
    standardize_latents,
)
from limbeck.world.denoiser import (
    MAX_TOKENS,
    DenoiserTask,
    build_scheduler,
    build_tokenizer,
    tokenize,
)
from limbeck.world.evaluator import Evaluator, EvaluatorTask, evaluator_accuracy
from limbeck.world.render_cache import (
    images_to_tensor,
    load_captions,
    load_images,
    prepare_renders,
)
from limbeck.world.trainer import Budget, fit, load_averaged


@dataclass(frozen=True)
class WorldTraining:
    """Training of the embedded world model.

    Attributes:
        out: output folder; a killed training resumes from it.
        minutes: wall time in minutes, divided among the stages.
        device: auto, cpu or cuda. auto: cuda if available, else cpu.
        workers: training processes. 0: one per core on a CPU; always 1 on other devices.
        num_images: renders to train on, at least 100.
        prediction_type: what the denoiser predicts; v_prediction has zero terminal SNR.
        batch_size: images per worker and step of the denoiser.
        snr_floor: the loss weight of the denoiser is min(SNR + snr_floor, 5). 0: min-SNR-5.
        init_from: pipeline folder to continue from: keeps its autoencoder, tokenizer and
            evaluator, and trains its denoiser further. None: train everything from scratch.
        seed: seed of the training; the renders have fixed seeds.
    """

    out: Path = Path("world-training")
    minutes: float = 150.0
    device: str = "auto"
    workers: int = 0
    num_images: int = 60_000
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    snr_floor: float = 0.25
    batch_size: int = 32
    init_from: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"minutes must be positive, not {self.minutes}")
        for name, minimum in (("workers", 0), ("num_images", 100), ("batch_size", 1)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, not {getattr(self, name)}")
        if self.snr_floor < 0:
            raise ValueError(f"snr_floor must not be negative, not {self.snr_floor}")

    def budget(self, share: float) -> Budget:
        """Return the budget of a stage that may use ``share`` of the minutes."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        workers = (self.workers or os.cpu_count() or 1) if device == "cpu" else 1
        return Budget(self.minutes * share, workers, device)


#: Shares of the minutes, from what each stage needed to stop improving on two cores.
_EVALUATOR_SHARE, _AUTOENCODER_SHARE, _DENOISER_SHARE = 0.05, 0.12, 0.83


def train_world(config: WorldTraining) -> Path:
    """Run every stage that is not done yet.

    Returns:
        The pipeline folder.
    """
    out = config.out
    prepare_renders(out / "train", config.num_images, 1)
    prepare_renders(out / "test", 2000, 2)
    print(f"{config.num_images} renders are ready in {out}", flush=True)
    if config.init_from is None:
        _train_evaluator(config)
        _train_autoencoder(config)
        share = _DENOISER_SHARE
    else:
        for part in ("vae", "tokenizer"):
            shutil.copytree(config.init_from / part, out / part, dirs_exist_ok=True)
        (out / "pipeline").mkdir(exist_ok=True)
        shutil.copy(config.init_from / "evaluator.safetensors", out / "pipeline")
        share = 1.0
    encode_dataset(out)
    task = DenoiserTask(
        out, config.batch_size, config.prediction_type, config.snr_floor, config.init_from
    )
    fit(task, out, config.budget(share), config.seed)
    return export_pipeline(out, task)


def _train_evaluator(config: WorldTraining) -> None:
    out = config.out
    budget = replace(config.budget(_EVALUATOR_SHARE), preview_every=180)
    net = fit(EvaluatorTask(out / "train", out / "test"), out, budget, config.seed).net
    _export_evaluator(net, out)


def _train_autoencoder(config: WorldTraining) -> None:
    """Train the autoencoder, standardize its latents, and build the tokenizer."""
    out = config.out
    task = AutoencoderTask(out / "train", out / "test")
    budget = replace(config.budget(_AUTOENCODER_SHARE), preview_every=180)
    fit(task, out, budget, config.seed)
    if (out / "vae").exists():
        return
    net = load_averaged(task, out / "autoencoder.checkpoint.safetensors").net
    standardize_latents(net, encode_means(net, load_images(out / "train")[:4000]))
    net.save_pretrained(out / "vae")
    captions = [text for variant in load_captions(out / "train", 5) for text in variant]
    build_tokenizer(captions, out / "tokenizer")


def encode_dataset(out: Path) -> None:
    """Write latents.npy and captions.npy of the training images, unless they are there."""
    if (out / "encoded.json").exists():
        return
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    net = AutoencoderKL.from_pretrained(out / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(str(out / "tokenizer"), model_max_length=MAX_TOKENS)
    images = load_images(out / "train")
    latents = encode_means(net, images)
    np.save(out / "latents.npy", latents.half().numpy())
    variants = [*load_captions(out / "train", 5), [""]]
    *ids, empty = (tokenize(tokenizer, texts).numpy().astype(np.int16) for texts in variants)
    np.save(out / "captions.npy", np.stack([*ids, empty.repeat(len(images), 0)]))
    test_images = images_to_tensor(load_images(out / "test")[:500])
    metrics = {
        "psnr": psnr(reconstruct(net, test_images), test_images),
        "latent_std": latents.std((0, 2, 3)).tolist(),
        "vocabulary": len(tokenizer),
    }
    (out / "encoded.json").write_text(json.dumps(metrics))


def _export_evaluator(net: Evaluator, out: Path) -> None:
    folder = out / "pipeline"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in net.state_dict().items()},
        folder / "evaluator.safetensors",
    )
    metrics = evaluator_accuracy(net, images_to_tensor(load_images(out / "test")), out / "test")
    (out / "evaluator.json").write_text(json.dumps(metrics))


def export_pipeline(out: Path, task: DenoiserTask) -> Path:
    """Write ``out/pipeline``, a StableDiffusionPipeline in fp16 from the averaged weights.

    The evaluator is in the same folder.

    Args:
        out: folder of the training.
        task: settings of the denoiser.

    Returns:
        The pipeline folder.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    folder = out / "pipeline"
    model = load_averaged(task, out / f"{task.name}.checkpoint.safetensors")
    model.unet.set_default_attn_processor()
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(out / "vae"),
        text_encoder=model.text,
        unet=model.unet,
        tokenizer=CLIPTokenizer.from_pretrained(
            str(out / "tokenizer"), model_max_length=MAX_TOKENS
        ),
        scheduler=build_scheduler(task.prediction_type),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    # the path on the training machine is private
    _edit_json(folder / "vae" / "config.json", _name_or_path=None)
    # transformers loads in the dtype given here, diffusers in float32; a pipeline must not mix them
    _edit_json(folder / "text_encoder" / "config.json", dtype="float32")
    # older transformers read these instead of tokenizer.json
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(out / "tokenizer" / name, folder / "tokenizer" / name)
    names = (
        "batch_size",
        "prediction_type",
        "snr_floor",
        "lr",
        "warmup_steps",
        "decay_start",
        "ema_decay",
    )
    settings = {name: getattr(task, name) for name in names}
    (folder / "training.json").write_text(json.dumps(settings, indent=1))
    return folder


def _edit_json(path: Path, **changes: str | None) -> None:
    """Set entries of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    kept = {k: v for k, v in content.items() if v is not None or k not in changes}
    path.write_text(json.dumps(kept, indent=2) + "\n")
