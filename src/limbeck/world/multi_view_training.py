"""Training of a multi-view model from the embedded world: groups of views, network, pipeline."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch

from limbeck.diffusion.camera_input import TRAINING_FILE
from limbeck.system.files import write_text
from limbeck.system.interrupt import Stopped
from limbeck.world.multi_view_data import prepare_groups
from limbeck.world.multi_view_denoiser import MultiViewTask
from limbeck.world.multi_view_options import MultiViewTraining
from limbeck.world.trainer import Budget, checkpoint_path, fit, is_budget_spent, load_averaged

#: Of a pipeline, what a model trained from it keeps.
_KEPT_FOLDERS = ("vae", "text_encoder", "tokenizer", "scheduler")
_KEPT_FILES = ("model_index.json", "vocabulary.json", "evaluator.safetensors")
_CHECKPOINT_SECONDS, _PREVIEW_SECONDS = 240.0, 1200.0


def multi_view_task(config: MultiViewTraining) -> MultiViewTask:
    """Return what the options of a training train."""
    return MultiViewTask(
        folder=config.out,
        pipeline=config.pipeline,
        num_groups=config.num_groups,
        batch_size=config.batch_size,
        view_words=config.view_words,
        final_view_words=min(config.view_words, MultiViewTask.final_view_words),
        single_views=config.single_views,
        reference_views=config.reference_views,
        lr=config.lr,
    )


def train_multi_view(config: MultiViewTraining) -> Path:
    """Prepare the groups and train, as far as that is not done yet.

    A training that is stopped leaves the pipeline of its last checkpoint, too.

    Returns:
        The pipeline folder, without a card if it was trained further.

    Raises:
        Stopped: after a signal.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    task = multi_view_task(config)
    workers = (config.workers or os.cpu_count() or 1) if device == "cpu" else 1
    budget = Budget(0.0, workers, device, _CHECKPOINT_SECONDS, _PREVIEW_SECONDS, steps=config.steps)
    if not is_budget_spent(task, config.out, budget):
        (config.out / "pipeline" / "card.json").unlink(missing_ok=True)
        prepare_groups(config.out / "groups", config.num_groups, config.pipeline / "vae")
        try:
            fit(task, config.out, budget, config.seed)
        except Stopped:
            if checkpoint_path(task, config.out).exists():
                export_multi_view(config)
            raise
    return export_multi_view(config)


def export_multi_view(config: MultiViewTraining) -> Path:
    """Write ``out/pipeline`` in fp16 from the averaged weights of the last checkpoint.

    It is the pipeline that the training started from with another U-Net, which plain diffusers
    loads as a ``UNet2DConditionModel``.

    Returns:
        The pipeline folder.
    """
    task, folder = multi_view_task(config), config.out / "pipeline"
    model = load_averaged(task, checkpoint_path(task, config.out))
    for part in _KEPT_FOLDERS:
        shutil.copytree(config.pipeline / part, folder / part, dirs_exist_ok=True)
    for name in _KEPT_FILES:
        if (config.pipeline / name).exists():
            shutil.copy(config.pipeline / name, folder / name)
    model.unet.half().save_pretrained(folder / "unet")
    settings = {k: v for k, v in vars(task).items() if not isinstance(v, Path)}
    write_text(folder / TRAINING_FILE, json.dumps(settings | {"steps": config.steps}, indent=1))
    return folder
