"""Options of the training of a small model, and the folder they are kept in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from limbeck.config.checks import check_options
from limbeck.config.ranges import check_minimums, check_positive, refuse_given
from limbeck.system.files import parse_json_object, read_text, write_text
from limbeck.system.folder_lock import LOCK_FILE
from limbeck.world.pretrained import WEIGHTS

#: Options that a resumed training cannot change.
_FIXED_OPTIONS = (
    "images",
    "minutes",
    "num_images",
    "prediction_type",
    "snr_floor",
    "batch_size",
    "init_from",
    "seed",
)


@dataclass(frozen=True)
class WorldTraining:
    """Training of the embedded world model, or of a model of the same size on own images.

    Attributes:
        out: output folder; a killed training resumes from it.
        images: folder of at least 200 images with captions: a text file beside each image, or a
            metadata.jsonl with file_name and text per line. None: renders of the world.
        minutes: wall time in minutes of everything: renders, stages, samples and model card.
        device: auto, cpu or cuda. auto: cuda if available, else cpu.
        workers: training processes. 0: one per core on a CPU; always 1 on other devices.
        num_images: renders to train on, at least 100; fewer if the minutes are too short for them.
        prediction_type: what the denoiser predicts; v_prediction has zero terminal SNR.
        batch_size: images per worker and step of the denoiser.
        snr_floor: the loss weight of the denoiser is min(SNR + snr_floor, 5). 0: min-SNR-5.
        init_from: pipeline folder to continue from: keeps its autoencoder, its tokenizer and, if
            it has one, its evaluator, and trains its denoiser further. None: train everything
            from scratch.
        seed: seed of the training; the renders have fixed seeds.
    """

    out: Path = Path("world-training")
    images: Path | None = None
    minutes: float = 150.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 0
    num_images: int = 60_000
    prediction_type: Literal["v_prediction", "epsilon"] = "v_prediction"
    snr_floor: float = 0.25
    batch_size: int = 32
    init_from: Path | None = None
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**32 - 1})

    def __post_init__(self) -> None:
        check_options(self)
        check_positive(self, "minutes")
        check_minimums(self, workers=0, num_images=100, batch_size=1)
        if self.snr_floor < 0:
            raise ValueError(f"snr_floor must not be negative, not {self.snr_floor}")
        if self.images is not None:
            refuse_given(self, "with images: leave it out", "num_images")


def _check_inputs(config: WorldTraining) -> None:
    """Check what the options name, before anything is written or rendered.

    Raises:
        ValueError: if a folder or the device is missing, or images have no captions.
    """
    for flag, folder in (("--images", config.images), ("--init-from", config.init_from)):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{flag} {folder} is not a folder")
    if config.images is not None:
        from limbeck.world.image_folder import find_captioned_images

        find_captioned_images(config.images)
    if config.init_from is not None:
        check_pipeline(config.init_from)
        _check_denoiser(config.init_from, config.prediction_type)
    check_device(config.device)


def check_pipeline(folder: Path) -> None:
    """Check that a folder has all parts of a pipeline.

    Raises:
        ValueError: names the first that is missing.
    """
    for part in ("vae", "tokenizer", "text_encoder", "unet", "scheduler"):
        if not (folder / part).is_dir():
            raise ValueError(f"--init-from {folder} is not a pipeline: it has no {part}/")


def _check_denoiser(pipeline: Path, prediction_type: str) -> None:
    """Check that the denoiser of a pipeline can be trained further.

    Raises:
        ValueError: if its U-Net differs from that of the embedded world, or it predicts another
            quantity.
    """
    unet, expected = (_read_json(p / "unet" / "config.json") for p in (pipeline, WEIGHTS))
    for name in sorted(unet.keys() & expected.keys()):
        if unet[name] != expected[name] and name[:1] != "_":
            raise ValueError(
                f"--init-from {pipeline} is not a model of limbeck train-world: {name} of its "
                f"U-Net is {unet[name]}, not {expected[name]}"
            )
    found = _read_json(pipeline / "scheduler" / "scheduler_config.json").get("prediction_type")
    if found != prediction_type:
        raise ValueError(
            f"--prediction-type {prediction_type}: the model in {pipeline} predicts {found}; give "
            f"--prediction-type {found}"
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"--init-from {path.parent.parent} is not a pipeline: it has no {path}")
    return parse_json_object(read_text(path), path)


def check_device(device: str) -> None:
    """Check that the device of a training is there.

    Raises:
        ValueError: if it is cuda and torch finds none.
    """
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("device cuda: torch finds no CUDA device; use --device cpu")


def foreign_entries(folder: Path) -> list[Path]:
    """What a folder holds besides the lock of another start."""
    return [path for path in folder.iterdir() if path.name != LOCK_FILE]


def open_training(config: WorldTraining) -> None:
    """Make the folder of a training, or check that the one there is of the same training.

    Args:
        config: the options of the training; they are written into the folder.

    Raises:
        ValueError: if the folder holds other files, or a training with other options.
    """
    options = {name: str(value) for name, value in vars(config).items() if name in _FIXED_OPTIONS}
    open_training_folder(config.out, options, lambda: _check_inputs(config))


def open_training_folder(
    out: Path, options: dict[str, str], check_inputs: Callable[[], None]
) -> None:
    """Make the folder of a training, or check that the one there is of the same training.

    Args:
        out: the folder.
        options: options that a resumed training cannot change, as text.
        check_inputs: called before a new folder is made; raises ValueError if it must not be.

    Raises:
        ValueError: if the folder holds other files, or a training with other options.
    """
    path = out / "options.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in options | before if before.get(name) != options.get(name)]
        if changed:
            values = ", ".join(f"{name} was {before.get(name)}" for name in changed)
            raise ValueError(
                f"{out} holds a training with other options ({values}): give another --out; "
                f"--init-from {out / 'pipeline'} trains a finished model further"
            )
        return
    if out.exists() and (not out.is_dir() or foreign_entries(out)):
        raise ValueError(f"{out} holds files that are no training: give another --out")
    check_inputs()
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(options, indent=1))
