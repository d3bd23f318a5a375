"""All training stages of a small model, from renders or own images to a pipeline folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from limbeck.diffusion.vocabulary import write_vocabulary
from limbeck.system.files import creating_folder, write_text
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
from limbeck.world.image_folder import prepare_images
from limbeck.world.render_cache import (
    images_to_tensor,
    load_captions,
    load_images,
    prepare_renders,
)
from limbeck.world.timetable import Timetable
from limbeck.world.trainer import Budget, fit, load_averaged
from limbeck.world.training_options import WorldTraining
from limbeck.world.vocabulary import training_vocabulary

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

#: Shares of the time, from what each stage needed to stop improving on two cores. The denoiser
#: gets what the others leave.
_RENDERS_SHARE, _EVALUATOR_SHARE, _AUTOENCODER_SHARE, _CARD_SHARE = 0.06, 0.05, 0.12, 0.08
#: Seconds that the model card gets: loading and a few samples take the least.
_MIN_CARD_SECONDS, _MAX_CARD_SECONDS = 20.0, 600.0
#: Share of the time that the denoiser gets even if the others overran theirs.
_MIN_DENOISER_SHARE = 0.1
_CLIP_TOKENS = 77  #: Tokens of a caption at most.


def card_seconds(minutes: float) -> float:
    """Return the time in seconds that is kept for the model card of a training, all in all."""
    return min(max(60 * minutes * _CARD_SHARE, _MIN_CARD_SECONDS), _MAX_CARD_SECONDS)


def train_world(config: WorldTraining) -> Path:
    """Run every stage that is not done yet.

    Returns:
        The pipeline folder.
    """
    out, total = config.out, 60 * config.minutes
    times = Timetable(out / "times.json")
    times.decide("start", time.process_time())  # the imports: nothing else has run yet
    with times.measure("images"):
        _prepare(config)
    count = len(load_images(out / "train"))
    print(f"{count} training images are ready in {out}", flush=True)
    if config.init_from is None:
        if config.images is None:
            with times.measure("evaluator"):
                _train_evaluator(config, total * _EVALUATOR_SHARE)
        with times.measure("autoencoder"):
            _train_autoencoder(config, total * _AUTOENCODER_SHARE)
    else:
        _copy_parts(config.init_from, out)
    with times.measure("encoding"):
        encode_dataset(out)
    task = DenoiserTask(
        out, config.batch_size, config.prediction_type, config.snr_floor, config.init_from
    )
    left = total - times.total - card_seconds(config.minutes)
    seconds = times.decide("denoiser", max(left, total * _MIN_DENOISER_SHARE))
    # the samples of the model card are the last preview
    fit(task, out, replace(_budget(config, seconds), last_preview=False), config.seed)
    return export_pipeline(out, task, data="world" if config.images is None else "images")


def _budget(config: WorldTraining, seconds: float) -> Budget:
    """Return the budget of a stage that may take so many seconds."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    workers = (config.workers or os.cpu_count() or 1) if device == "cpu" else 1
    return Budget(seconds / 60, workers, device)


def _prepare(config: WorldTraining) -> None:
    """Cache the images of training and test."""
    if config.images is not None:
        prepare_images(config.images, config.out)
        return
    seconds = 60 * config.minutes * _RENDERS_SHARE
    prepare_renders(config.out / "train", config.num_images, 1, seconds=seconds)
    count = len(load_images(config.out / "train"))
    prepare_renders(config.out / "test", min(2000, max(200, count // 10)), 2)


def _copy_parts(pipeline: Path, out: Path) -> None:
    """Copy the parts of a pipeline that are not trained further."""
    for part in ("vae", "tokenizer"):
        shutil.copytree(pipeline / part, out / part, dirs_exist_ok=True)
    (out / "pipeline").mkdir(exist_ok=True)
    if (pipeline / "evaluator.safetensors").exists():
        shutil.copy(pipeline / "evaluator.safetensors", out / "pipeline")


def _train_evaluator(config: WorldTraining, seconds: float) -> None:
    out = config.out
    budget = replace(_budget(config, seconds), preview_every=180)
    net = fit(EvaluatorTask(out / "train", out / "test"), out, budget, config.seed).net
    _export_evaluator(net, out)


def _train_autoencoder(config: WorldTraining, seconds: float) -> None:
    """Train the autoencoder, standardize its latents, and build the tokenizer."""
    out = config.out
    task = AutoencoderTask(out / "train", out / "test")
    budget = replace(_budget(config, seconds), preview_every=180)
    fit(task, out, budget, config.seed)
    if not (out / "vae").exists():
        net = load_averaged(task, out / "autoencoder.checkpoint.safetensors").net
        write_autoencoder(net, out)


def write_autoencoder(net: AutoencoderKL, out: Path) -> None:
    """Write the tokenizer of the captions, then the autoencoder with standardized latents.

    Each folder is there as a whole or not at all, so that a training that was killed goes on.

    Args:
        net: the trained autoencoder.
        out: folder of the training, with its images.
    """
    if not (out / "tokenizer").exists():
        captions = [text for variant in load_captions(out / "train", 5) for text in variant]
        with creating_folder(out / "tokenizer") as folder:
            build_tokenizer(captions, folder, _max_tokens(captions))
    standardize_latents(net, encode_means(net, load_images(out / "train")[:4000]))
    with creating_folder(out / "vae") as folder:
        net.save_pretrained(folder)


def _max_tokens(captions: list[str]) -> int:
    """Return the length of the longest caption, where every word and comma is one token."""
    longest = max(len(text.replace(",", " , ").split()) for text in captions) + 2
    return min(max(longest, MAX_TOKENS), _CLIP_TOKENS)


def encode_dataset(out: Path) -> None:
    """Write latents.npy and captions.npy of the training images, unless they are there."""
    if (out / "encoded.json").exists():
        return
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

    net = AutoencoderKL.from_pretrained(out / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(str(out / "tokenizer"))
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
    write_text(out / "encoded.json", json.dumps(metrics))


def _export_evaluator(net: Evaluator, out: Path) -> None:
    folder = out / "pipeline"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in net.state_dict().items()},
        folder / "evaluator.safetensors",
    )
    metrics = evaluator_accuracy(net, images_to_tensor(load_images(out / "test")), out / "test")
    (out / "evaluator.json").write_text(json.dumps(metrics), encoding="utf-8")


def export_pipeline(out: Path, task: DenoiserTask, data: str = "world") -> Path:
    """Write ``out/pipeline``, a StableDiffusionPipeline in fp16 from the averaged weights.

    The evaluator of the world and the vocabulary of the captions are in the same folder.

    Args:
        out: folder of the training.
        task: settings of the denoiser.
        data: what it was trained on, world or images; written into training.json.

    Returns:
        The pipeline folder.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = out / "pipeline"
    model = load_averaged(task, out / f"{task.name}.checkpoint.safetensors")
    model.unet.set_default_attn_processor()
    parts = {
        "vae": AutoencoderKL.from_pretrained(out / "vae"),
        "text_encoder": model.text,
        "unet": model.unet,
        "tokenizer": CLIPTokenizer.from_pretrained(str(out / "tokenizer")),
        "scheduler": build_scheduler(task.prediction_type),
    }
    _save_parts(parts, folder)
    write_vocabulary(training_vocabulary(out, data, task.init_from), folder)
    # the path on the training machine is private
    _edit_json(folder / "vae" / "config.json", _name_or_path=None)
    # transformers loads in the dtype given here, diffusers in float32; a pipeline must not mix them
    _edit_json(folder / "text_encoder" / "config.json", dtype="float32")
    # older transformers read these instead of tokenizer.json
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(out / "tokenizer" / name, folder / "tokenizer" / name)
    _save_settings(task, data, folder)
    return folder


def _save_parts(parts: Mapping[str, Any], folder: Path) -> None:
    """Write the parts of a StableDiffusionPipeline in fp16, and the index that lists them.

    Not by a pipeline object, whose class loads slowly and warns of what is not needed here.
    """
    from diffusers import __version__

    index: dict[str, object] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": __version__,
        "requires_safety_checker": False,
    }
    index |= {name: [None, None] for name in ("feature_extractor", "image_encoder")}
    index |= {"safety_checker": [None, None]}
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            part.half()
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    write_text(folder / "model_index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")


def _save_settings(task: DenoiserTask, data: str, folder: Path) -> None:
    """Write training.json, the settings of the training that made the weights."""
    names = (
        "batch_size",
        "prediction_type",
        "snr_floor",
        "lr",
        "warmup_steps",
        "decay_start",
        "ema_decay",
    )
    settings = {"data": data} | {name: getattr(task, name) for name in names}
    (folder / "training.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _edit_json(path: Path, **changes: str | None) -> None:
    """Set entries of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {k: v for k, v in content.items() if v is not None or k not in changes}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
