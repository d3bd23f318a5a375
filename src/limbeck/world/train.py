"""``limbeck train-world``: pictures, evaluator, autoencoder, text encoder and U-Net, from nothing to a pipeline folder."""

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

from limbeck.world.autoencoder import AutoencoderTask, encode_all, psnr, reconstruct, standardise
from limbeck.world.denoiser import LENGTH, DenoiserTask, build_scheduler, build_tokenizer, tokens
from limbeck.world.evaluator import Evaluator, EvaluatorTask, accuracy
from limbeck.world.render_cache import as_images, load_captions, load_pictures, prepare
from limbeck.world.trainer import Budget, averaged, fit


@dataclass(frozen=True)
class WorldTraining:
    """Training of the embedded world model.

    out: working folder; a killed training goes on from it. minutes: wall time in all, shared out over the stages. device: auto,
    cpu or cuda. workers: processes, 0 for one per core on a CPU. pictures: renders to train on. prediction: what the denoiser
    predicts; v_prediction comes with zero terminal signal. floor: added to the signal-to-noise ratio in the loss weight, see
    ``Denoising``. batch: pictures per worker and step of the denoiser. start: a pipeline folder to go on from: its autoencoder,
    tokenizer and evaluator are taken over, its denoiser is trained further. seed: of the training; the pictures have seeds of
    their own.
    """

    out: Path = Path("world-training")
    minutes: float = 150.0
    device: str = "auto"
    workers: int = 0
    pictures: int = 60_000
    prediction: Literal["v_prediction", "epsilon"] = "v_prediction"
    floor: float = 0.25
    batch: int = 32
    start: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            self.minutes <= 0
            or self.workers < 0
            or self.pictures < 100
            or self.batch < 1
            or self.floor < 0
        ):
            raise ValueError(
                f"minutes, batch must be positive, workers and floor not negative, pictures at least 100: {self}"
            )

    def budget(self, share: float) -> Budget:
        """The budget of a stage that may use ``share`` of the minutes."""
        device = (
            ("cuda" if torch.cuda.is_available() else "cpu")
            if self.device == "auto"
            else self.device
        )
        workers = (self.workers or os.cpu_count() or 1) if device == "cpu" else 1
        return Budget(self.minutes * share, workers, device)


#: shares of the minutes by stage, from what each needed to stop improving on two cores
EVALUATOR, AUTOENCODER, DENOISER = 0.05, 0.12, 0.83


def train(settings: WorldTraining) -> Path:
    """Run every stage that is not done yet; returns the pipeline folder."""
    out = settings.out
    prepare(out / "train", settings.pictures, 1)
    prepare(out / "test", 2000, 2)
    print(f"{settings.pictures} pictures are ready in {out}", flush=True)
    if settings.start is None:
        evaluator = EvaluatorTask(out / "train", out / "test")
        net = fit(evaluator, out, replace(settings.budget(EVALUATOR), preview=180), settings.seed)
        _export_evaluator(net.net, out)
        autoencoder = AutoencoderTask(out / "train", out / "test")
        fit(autoencoder, out, replace(settings.budget(AUTOENCODER), preview=180), settings.seed)
        if not (out / "vae").exists():
            net = averaged(autoencoder, out / "autoencoder.checkpoint.safetensors").net
            standardise(net, encode_all(net, load_pictures(out / "train")[:4000]))
            net.save_pretrained(out / "vae")
            build_tokenizer(
                [text for variant in load_captions(out / "train", 5) for text in variant],
                out / "tokenizer",
            )
    else:
        for part in ("vae", "tokenizer"):
            shutil.copytree(settings.start / part, out / part, dirs_exist_ok=True)
        (out / "pipeline").mkdir(exist_ok=True)
        shutil.copy(settings.start / "evaluator.safetensors", out / "pipeline")
    encode(out)
    task = DenoiserTask(out, settings.batch, settings.prediction, settings.floor, settings.start)
    fit(task, out, settings.budget(DENOISER if settings.start is None else 1.0), settings.seed)
    return export_pipeline(out, task)


def encode(out: Path) -> None:
    """Write latents.npy and captions.npy of the training pictures; does nothing when they are there."""
    if (out / "encoded.json").exists():
        return
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    net = AutoencoderKL.from_pretrained(out / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(str(out / "tokenizer"), model_max_length=LENGTH)
    pictures, test = load_pictures(out / "train"), as_images(load_pictures(out / "test")[:500])
    latents = encode_all(net, pictures)
    np.save(out / "latents.npy", latents.half().numpy())
    empty = tokens(tokenizer, [""]).numpy().astype(np.int16).repeat(len(pictures), 0)
    said = [
        tokens(tokenizer, variant).numpy().astype(np.int16)
        for variant in load_captions(out / "train", 5)
    ]
    np.save(out / "captions.npy", np.stack([*said, empty]))
    figures = {
        "psnr": psnr(reconstruct(net, test), test),
        "latent_std": latents.std((0, 2, 3)).tolist(),
        "vocabulary": len(tokenizer),
    }
    (out / "encoded.json").write_text(json.dumps(figures))


def _export_evaluator(net: Evaluator, out: Path) -> None:
    folder = out / "pipeline"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in net.state_dict().items()},
        folder / "evaluator.safetensors",
    )
    test = as_images(load_pictures(out / "test"))
    (out / "evaluator.json").write_text(json.dumps(accuracy(net, test, out / "test", len(test))))


def export_pipeline(out: Path, task: DenoiserTask) -> Path:
    """Write ``out/pipeline``: a StableDiffusionPipeline in fp16 from the averaged weights, with the evaluator beside it."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    folder = out / "pipeline"
    model = averaged(task, out / f"{task.name}.checkpoint.safetensors")
    model.unet.set_default_attn_processor()
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(out / "vae"),
        text_encoder=model.text,
        unet=model.unet,
        tokenizer=CLIPTokenizer.from_pretrained(str(out / "tokenizer"), model_max_length=LENGTH),
        scheduler=build_scheduler(task.prediction),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    _edit(
        folder / "vae" / "config.json", _name_or_path=None
    )  # where it was made is nobody's business
    # transformers loads in the type it finds here, diffusers in float32; a pipeline must not mix them
    _edit(folder / "text_encoder" / "config.json", dtype="float32")
    for name in (
        "vocab.json",
        "merges.txt",
    ):  # older transformers read these rather than tokenizer.json
        shutil.copy(out / "tokenizer" / name, folder / "tokenizer" / name)
    kept = {
        name: getattr(task, name)
        for name in ("size", "prediction", "floor", "rate", "warmup", "decay_from", "average")
    }
    (folder / "training.json").write_text(json.dumps(kept, indent=1))
    return folder


def _edit(path: Path, **changes: str | None) -> None:
    """Set entries of a JSON file, or take them out with None."""
    content = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps(
            {k: v for k, v in content.items() if v is not None or k not in changes}, indent=2
        )
        + "\n"
    )
