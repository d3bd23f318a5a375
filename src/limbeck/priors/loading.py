"""From the word behind ``--model`` to a prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from limbeck.diffusion.model_options import ModelOverrides, Precision, RuntimeOptions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import RectifiedFlow
from limbeck.priors.exact import DataSet, coloured_shapes

if TYPE_CHECKING:
    from limbeck.priors.diffusers_base import DiffusersPrior

WORLD = Path(__file__).parents[1] / "world" / "weights"  #: the embedded pipeline
EXACT: dict[str, Callable[[], Prior]] = {  #: models without a file
    "gaussians": coloured_shapes,
    "gaussians-flow": partial(coloured_shapes, schedule=RectifiedFlow(), kind="flow"),
}
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


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


def family(folder: Path) -> type[DiffusersPrior]:
    """The prior that reads a pipeline folder, by what its model_index.json calls itself; ValueError where there is none."""
    from limbeck.priors.checkpoint_files import CheckpointFiles
    from limbeck.priors.deepfloyd_if import DeepFloydIF
    from limbeck.priors.flux import Flux
    from limbeck.priors.sd3 import SD3
    from limbeck.priors.sdxl import SDXL
    from limbeck.priors.stable_diffusion import StableDiffusion

    known: dict[str, type[DiffusersPrior]] = {
        cls.pipeline: cls for cls in (StableDiffusion, SDXL, DeepFloydIF, SD3, Flux)
    }
    name = CheckpointFiles(folder).read("", "model_index.json").get("_class_name")
    if name not in known:
        raise ValueError(f"{folder} holds a {name}; there are priors for {', '.join(known)}")
    return known[name]


def check_layout(folder: Path, single: bool = False) -> None:
    """ValueError that says what is missing where a folder is no pipeline of a known family; ``single``: weights lie elsewhere."""
    cls = family(folder)
    parts = ["scheduler", *cls.own, cls.part, "text_encoder", "tokenizer"]
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}")


def load(model: str = "world", device: str = "auto", precision: Precision = "auto", parts: ModelOverrides = ModelOverrides(),  # noqa: B008
         runtime: RuntimeOptions = RuntimeOptions()) -> Prior:  # fmt: skip  # noqa: B008
    """The prior behind a name: ``world`` (embedded), ``gaussians``, ``gaussians-flow``, ``dataset:FOLDER``, a pipeline folder, a
    ``.safetensors`` checkpoint, or a hub id ``owner/name`` with ``@revision`` if wanted.

    Raises ValueError where there is no such thing or it is of another kind, and where it would have to be fetched and cannot be.
    """
    device = pick_device(device)
    if model in EXACT or model.startswith("dataset:"):
        if parts != ModelOverrides():
            raise ValueError(f"model {model!r} has no network and no parts to change")
        if runtime != RuntimeOptions():
            raise ValueError(
                f"model {model!r} has no network that could be run otherwise: leave --runtime out"
            )
        return (
            EXACT[model]() if model in EXACT else load_dataset(Path(model.removeprefix("dataset:")))
        )
    from limbeck.priors.checkpoint_files import CheckpointFiles
    from limbeck.priors.hub import configurations, located

    where = WORLD if model == "world" else located(model)
    if parts.vae:
        parts = replace(parts, vae=str(located(parts.vae, "config.json")))
    files = CheckpointFiles(where)
    if where.is_file():
        files = CheckpointFiles(configurations(where, parts.config), where)
    check_layout(files.folder, where.is_file())
    try:
        return family(files.folder)(
            files, device, pick_precision(precision, device), parts, runtime
        )
    except OSError as error:
        raise ValueError(f"could not load {model!r}: {str(error).splitlines()[0]}") from error


def load_dataset(folder: Path, size: int = 64) -> DataSet:
    """The pictures below a folder, cut square from the middle and resized; the label is the path in words
    (``cats/red_one.png``)."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not folder.is_dir():
        raise ValueError(f"no data set: {folder} is not a folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS)
    if not files:
        raise ValueError(f"{folder} holds no pictures ({', '.join(ENDINGS)})")
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
