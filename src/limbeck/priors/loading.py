"""From the word behind ``--model`` to a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from limbeck.config.yaml import read_component
from limbeck.diffusion.model_options import Model, Precision, RuntimeOptions, as_model
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.priors.exact import DataSet, colored_shapes

if TYPE_CHECKING:
    from limbeck.priors.diffusers_base import DiffusersPrior

WORLD_FOLDER = Path(__file__).parents[1] / "world" / "weights"  #: the embedded pipeline
EXACT_MODELS: dict[str, Callable[[], Prior]] = {  #: models without a file
    "gaussians": colored_shapes,
    "gaussians-flow": partial(colored_shapes, schedule=RectifiedFlowSchedule(), prediction_type="flow"),
}
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def pick_device(device: str) -> str:
    """``auto`` becomes cuda where there is one, else cpu; a device that is not there is an error."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            "device cuda was asked for, but torch sees no CUDA device here; use --device cpu"
        )
    if device.startswith("cuda:") and not (
        device[5:].isdigit() and int(device[5:]) < torch.cuda.device_count()
    ):
        raise ValueError(
            f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA device(s), counted from cuda:0"
        )
    if device.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise ValueError(f"unknown device {device!r}: choose auto, cpu, cuda, cuda:N or mps")
    return device


def pick_precision(precision: Precision, device: str) -> torch.dtype:
    """``auto`` becomes float32 on a CPU and 16 bits elsewhere: bfloat16 where it is fast, whose range a critic's gradients need."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
            precision
        ]
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def prior_class(folder: Path) -> type[DiffusersPrior]:
    """The prior that reads a pipeline folder, by what its model_index.json calls itself; ValueError where there is none."""
    from limbeck.priors.checkpoint_files import CheckpointFiles
    from limbeck.priors.deepfloyd_if import DeepFloydIF
    from limbeck.priors.flux import Flux
    from limbeck.priors.sd3 import SD3
    from limbeck.priors.sdxl import SDXL
    from limbeck.priors.stable_diffusion import StableDiffusion

    known: dict[str, type[DiffusersPrior]] = {
        cls.pipeline_name: cls for cls in (StableDiffusion, SDXL, DeepFloydIF, SD3, Flux)
    }
    name = CheckpointFiles(folder).read_config("", "model_index.json").get("_class_name")
    if name not in known:
        raise ValueError(f"{folder} holds a {name}; there are priors for {', '.join(known)}")
    return known[name]


def check_layout(folder: Path, single: bool = False) -> None:
    """ValueError that says what is missing where a folder is no pipeline of a known family; ``single``: weights lie elsewhere."""
    cls = prior_class(folder)
    parts = ["scheduler", *cls.extra_parts, cls.network_name, "text_encoder", "tokenizer"]
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}")


def load(
    model: str | Model | Prior = "world",
    device: str = "auto",
    precision: Precision = "auto",
    runtime: RuntimeOptions = RuntimeOptions(),  # noqa: B008
) -> Prior:
    """Load a pretrained model as a prior.

    Args:
        model: name of a model, as ``Model.name`` or ``FILE.py:CLASS``; or a ``Model``, which can
            also add a LoRA or replace the autoencoder. A prior is returned as it is.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: of the frozen weights; ``auto`` is float32 on a CPU and 16 bits on a GPU.
        runtime: how the network and the autoencoder are executed.

    Raises:
        ValueError: if there is no such model, its files are of an unknown kind or incomplete, or
            they would have to be downloaded and cannot be.
    """
    device = pick_device(device)
    if isinstance(model, str):
        model = as_model(read_component(Model, model, "model"))
    if not isinstance(model, Model):
        if runtime != RuntimeOptions():
            raise ValueError(f"--runtime has no effect on {type(model).__name__}: leave it out")
        return model
    return _load_model(model, device, precision, runtime)


def _load_model(model: Model, device: str, precision: Precision, runtime: RuntimeOptions) -> Prior:
    name = model.name
    if name in EXACT_MODELS or name.startswith("dataset:"):
        if model != Model(name):
            raise ValueError(f"model {name!r} has no network: it takes no other --model options")
        if runtime != RuntimeOptions():
            raise ValueError(
                f"model {name!r} has no network, so --runtime has no effect: leave it out"
            )
        if name in EXACT_MODELS:
            return EXACT_MODELS[name]()
        return load_dataset(Path(name.removeprefix("dataset:")))
    from limbeck.priors.checkpoint_files import CheckpointFiles
    from limbeck.priors.hub import resolve_config, resolve_model

    where = WORLD_FOLDER if name == "world" else resolve_model(name)
    if model.vae:
        model = replace(model, vae=str(resolve_model(model.vae, "config.json")))
    files = CheckpointFiles(where)
    if where.is_file():
        files = CheckpointFiles(resolve_config(where, model.config), where)
    check_layout(files.folder, where.is_file())
    try:
        return prior_class(files.folder)(
            files, device, pick_precision(precision, device), model, runtime
        )
    except OSError as error:
        raise ValueError(f"could not load {name!r}: {str(error).splitlines()[0]}") from error


def load_dataset(folder: Path, size: int = 64) -> DataSet:
    """The pictures below a folder, cut square from the middle and resized; the label is the path in words
    (``cats/red_one.png``)."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not folder.is_dir():
        raise ValueError(f"no data set: {folder} is not a folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{folder} holds no pictures ({', '.join(_IMAGE_SUFFIXES)})")
    store = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    for i, path in enumerate(files):
        try:
            with Image.open(path) as image:
                square = ImageOps.fit(image.convert("RGB"), (size, size))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} is not a picture that can be read") from error
        store[i] = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)
    labels = tuple(
        str(p.relative_to(folder).with_suffix("")).replace("_", " ").replace("-", " ")
        for p in files
    )
    return DataSet(store, labels)
