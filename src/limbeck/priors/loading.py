"""Loading of priors by the name of a model."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from limbeck.config.yaml import read_component
from limbeck.diffusion.model_options import (
    Model,
    Precision,
    RuntimeOptions,
    as_model,
)
from limbeck.diffusion.prior import Prior, VocabularyPrior
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.diffusion.vocabulary import Vocabulary, read_vocabulary
from limbeck.priors.dataset_folder import (
    dataset_files,
    dataset_folder,
    dataset_labels,
    load_dataset,
)
from limbeck.priors.exact import colored_shapes, label_vocabulary
from limbeck.priors.families import FAMILIES, INSTRUCTION_PIPELINE, family_of
from limbeck.system.environment import cpu_has_bfloat16
from limbeck.system.image_files import check_image_exists, image_file_size
from limbeck.system.notices import notify

if TYPE_CHECKING:
    from limbeck.priors.checkpoint_files import CheckpointFiles
    from limbeck.priors.diffusers_base import DiffusersPrior

_WORLD = Path(__file__).parents[1] / "world"
#: Embedded models and their pipeline folders: of single images, and of four views at once.
EMBEDDED_MODELS = {"world": _WORLD / "weights", "world-mv": _WORLD / "weights_multi_view"}
#: Models without files.
EXACT_MODELS: dict[str, Callable[[], Prior]] = {
    "gaussians": colored_shapes,
    "gaussians-flow": partial(
        colored_shapes, schedule=RectifiedFlowSchedule(), prediction_type="flow"
    ),
}


def is_exact(model: Model | Prior | str) -> bool:
    """Whether the name of a model is that of an exact prior, which has no files of weights."""
    return isinstance(model, Model | str) and (
        str(model) in EXACT_MODELS or str(model).startswith("dataset:")
    )


def known_family(model: Model | str) -> str | None:
    """Family of a model by its name: world, exact, or that of a published model; None if unknown.

    That of ``world-mv`` is mvdream: it is read and used as MVDream is.

    Args:
        model: the model, of which nothing is loaded or downloaded.
    """
    from limbeck.priors.catalog import find_model
    from limbeck.priors.hub import REPO_ID_PATTERN

    name = str(model)
    if name in EMBEDDED_MODELS:
        return "world" if name == "world" else "mvdream"
    if is_exact(name):
        return "exact"
    hub_id = None if Path(name).expanduser().exists() else REPO_ID_PATTERN.fullmatch(name)
    known = find_model(hub_id["repo"]) if hub_id is not None else None
    return None if known is None else known.family


def find_vocabulary(model: Model | Prior | str) -> Vocabulary | None:
    """Return the words that a model knows, without loading it.

    Returns:
        None if the model knows any word, or if its files are not in a folder.
    """
    if isinstance(model, VocabularyPrior):
        return model.vocabulary
    if not isinstance(model, Model | str):
        return None
    name = str(model)
    if name in EXACT_MODELS:
        return find_vocabulary(EXACT_MODELS[name]())
    if name.startswith("dataset:"):
        folder = dataset_folder(name)
        return label_vocabulary(dataset_labels(folder, dataset_files(folder)))
    return read_vocabulary(EMBEDDED_MODELS.get(name, Path(name).expanduser()))


def unknown_word_notices(model: Model | Prior | str, prompts: Sequence[str]) -> list[str]:
    """What a user should know about words that a model does not know, before it is loaded.

    Args:
        model: the model, as for ``load``.
        prompts: prompts of any kind; empty ones are skipped.

    Returns:
        One line per notice; empty if the model knows all words.
    """
    vocabulary = find_vocabulary(model)
    return vocabulary.notices(prompts) if vocabulary else []


def notify_unknown_words(model: Model | Prior | str, prompts: Sequence[str]) -> None:
    """Give these notices.

    Args:
        model: the model, as for ``load``.
        prompts: prompts of any kind; empty ones are skipped.
    """
    for text in unknown_word_notices(model, prompts):
        notify(text)


def pick_device(device: str) -> str:
    """Return the device to use; ``auto`` is cuda if there is one, else cpu.

    Of the processes that torchrun starts on one machine, each gets a GPU of its own.

    Raises:
        ValueError: if there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch finds no CUDA device; use --device cpu")
    if device.startswith("cuda:"):
        index, count = device.removeprefix("cuda:"), torch.cuda.device_count()
        if not (index.isdigit() and int(index) < count):
            raise ValueError(
                f"device {device!r}: there are {count} CUDA device(s), numbered from cuda:0"
            )
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device mps: torch finds no Apple GPU; use --device cpu")
    if device.split(":")[0] != "cuda" and device not in ("cpu", "mps"):
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, not {device!r}")
    return device


def pick_precision(precision: Precision, device: str) -> torch.dtype:
    """Return the dtype of frozen weights.

    Args:
        precision: ``auto`` is bfloat16 on a CPU with instructions for it, float32 on others, and 16
            bits on a GPU: bfloat16 if it is fast, since the gradients of a critic need its range.
        device: where the weights are.
    """
    if precision != "auto":
        dtypes = {
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
            "float16": torch.float16,
        }
        return dtypes[precision]
    if device == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def prior_class(files: CheckpointFiles) -> type[DiffusersPrior]:
    """Return the class that reads a pipeline, by ``_class_name`` in its model_index.json.

    Args:
        files: a pipeline folder, or one file and a folder of configurations.

    Raises:
        ValueError: if it is no pipeline folder, or of an unsupported family.
    """
    from limbeck import priors
    from limbeck.priors.image_dream_files import takes_image_prompts
    from limbeck.priors.mvdream_files import PIPELINE_NAME, is_multi_view

    def family_class(family: str) -> type[DiffusersPrior]:
        cls: type[DiffusersPrior] = getattr(priors, family)
        return cls

    if is_multi_view(files):
        return family_class("ImageDream" if takes_image_prompts(files) else "MVDream")
    name = files.read_config("", "model_index.json").get("_class_name")
    family = family_of(str(name))
    if not family:
        names = dict.fromkeys(family_class(family).pipeline_name for family in FAMILIES.values())
        known = ", ".join([*names, INSTRUCTION_PIPELINE])
        raise ValueError(
            f"{files.folder / 'model_index.json'}: _class_name must be one of {known}, "
            f"{PIPELINE_NAME} or another pipeline of these families, not {name!r:.80}"
        )
    return family_class(family)


def check_layout(folder: Path) -> None:
    """Check that a pipeline folder has the folders of all components that its prior reads.

    Raises:
        ValueError: if some are missing or empty.
    """
    from limbeck.priors.checkpoint_files import CheckpointFiles

    cls = prior_class(CheckpointFiles(folder))
    parts = ["scheduler", *cls.extra_parts, cls.network_name, *cls.text_parts]
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}")
    if "tokenizer" in parts and not any((folder / "tokenizer").iterdir()):
        raise ValueError(f"{folder / 'tokenizer'} is empty: copy the files of the tokenizer")


def check_model_files(model: Model) -> None:
    """Check that the files exist that the options of a model name; none is read.

    Args:
        model: the model. Names of the hub are not looked up.

    Raises:
        ValueError: if one is missing.
    """
    from limbeck.priors.lora_files import find_lora_file

    if model.name.startswith("dataset:"):
        dataset_files(dataset_folder(model.name))
    if model.lora is not None:
        find_lora_file(model.lora)
    for image in (model.control_image, model.ip_image):
        if image is not None:
            check_image_exists(image)


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
        precision: of the frozen weights, see ``pick_precision``.
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


def _refuse_misspelled(name: str) -> None:
    """Raise ValueError if this is no file, no hub id, and nearly the name of a small model."""
    known = (*EMBEDDED_MODELS, *EXACT_MODELS)
    is_word = re.fullmatch(r"[\w-]+", name) is not None
    similar = difflib.get_close_matches(name, known, 1) if is_word else []
    if name not in known and similar and not Path(name).expanduser().exists():
        raise ValueError(f"no model is called {name!r}. Did you mean {similar[0]}?")


def _load_model(model: Model, device: str, precision: Precision, runtime: RuntimeOptions) -> Prior:
    name = model.name
    if is_exact(model):
        if model != Model(name):
            raise ValueError(f"model {name!r} has no network: it takes no other --model options")
        if runtime != RuntimeOptions():
            raise ValueError(
                f"model {name!r} has no network, so --runtime has no effect: leave it out"
            )
        if name in EXACT_MODELS:
            return EXACT_MODELS[name]()
        return load_dataset(dataset_folder(name))
    from limbeck.priors.checkpoint_files import CheckpointFiles, loading
    from limbeck.priors.controlnet import resolve_control
    from limbeck.priors.hub import resolve_config, resolve_model
    from limbeck.priors.ip_adapter import resolve_ip_adapter

    _refuse_misspelled(name)
    path = EMBEDDED_MODELS.get(name) or resolve_model(name)
    if model.control:
        model = resolve_control(model)
    if model.ip_adapter:
        model = resolve_ip_adapter(model)
    for image in (model.control_image, model.ip_image):
        if image is not None:
            image_file_size(image)  # raises before the weights are read
    files = CheckpointFiles(path)
    if path.is_file():
        files = CheckpointFiles(resolve_config(path, model.config), path)
    elif model.config:
        raise ValueError(
            f"config {model.config} is for a single-file checkpoint, but {name} has configurations "
            "of its own: leave it out"
        )
    check_layout(files.folder)
    cls = prior_class(files)
    if model.vae and "vae" in cls.extra_parts:  # others refuse it
        model = replace(model, vae=str(resolve_model(model.vae, "config.json")))
    with loading(files.name, passed_on=(ValueError,)):
        prior = cls(files, device, pick_precision(precision, device), model, runtime)
        prior.check_runs()
        return prior
