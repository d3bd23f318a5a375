"""The files of a diffusers pipeline: a folder, or one checkpoint beside a folder of configurations."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.logging import disable_progress_bar as disable_diffusers_bar
from safetensors import safe_open
from torch import nn
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()  # a prompt's half second of loading needs no bar of its own
disable_diffusers_bar()
_NON_TEXT_PARTS = (
    "vae",
    "safety_checker",
    "feature_extractor",
    "image_encoder",
    "watermarker",
)  #: parts that no text needs


@dataclass(frozen=True)
class CheckpointFiles:
    """Where a pipeline is read from.

    folder: with ``model_index.json`` and one folder per part. single: a ``.safetensors`` file that holds all weights in the layout
    of the model's authors; the folder then need hold configurations and tokenizers only.
    """

    folder: Path
    single_file: Path | None = None

    @property
    def name(self) -> str:
        """What an error calls the model."""
        return str(self.single_file or self.folder)

    def read_config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        """A configuration; ValueError where there is none."""
        path = self.folder / part / file
        if not path.is_file():
            raise ValueError(
                f"{self.folder} lacks {part}/{file}"
                if part
                else f"{self.folder} is no diffusers pipeline: no {file}"
            )
        return json.loads(path.read_text())

    def full_config(self, cls: Any, part: str) -> dict[str, Any]:
        """Every option of a part, those the file leaves out by the defaults of its class; ValueError where it is another class."""
        said = self.read_config(part)
        if said.get("_class_name", cls.__name__) != cls.__name__:
            raise ValueError(
                f"{self.name}: its {part} is a {said['_class_name']}, and this loader knows {cls.__name__}"
            )
        return {
            key: value.default for key, value in inspect.signature(cls).parameters.items()
        } | said

    def load_module(self, cls: Any, part: str, dtype: torch.dtype) -> nn.Module:
        """A part as frozen weights."""
        if self.single_file is not None:
            with silence_library_logs():
                made = cls.from_single_file(
                    str(self.single_file), config=str(self.folder), subfolder=part, dtype=dtype
                )
            return made.eval().requires_grad_(False)
        return load_frozen_module(cls, self.folder / part, dtype)

    def weight_names(self) -> set[str]:
        """Names of weights of a single file; some say of themselves what the model is."""
        if self.single_file is None:
            return set()
        with safe_open(self.single_file, "pt") as file:
            return set(file.keys())

    def load_text_pipeline(self, name: str, network: str, dtype: torch.dtype, **options: Any) -> Any:
        """The pipeline's tokenizers and text encoders, in the pipeline that knows how to use them; all else is left out."""
        with silence_library_logs():
            cls = pipeline_class(name)
            takes = inspect.signature(cls).parameters
            empty = [
                part
                for part in takes
                if part in _NON_TEXT_PARTS or part == network or not (self.folder / part).is_dir()
            ]
            options |= {
                part: None
                for part in empty
                if takes[part].default in (inspect.Parameter.empty, None)
            }
            options |= {"dtype": dtype}
            if self.single_file is not None:
                return cls.from_single_file(str(self.single_file), config=str(self.folder), **options)
            return cls.from_pretrained(
                str(self.folder), variant=weights_variant(self.folder / "text_encoder"), **options
            )


@contextmanager
def silence_library_logs() -> Iterator[None]:
    """Without what the libraries have to say about image processors and precisions, which nobody asked for."""
    from diffusers.utils import logging as theirs
    from transformers.utils import logging

    before = logging.get_verbosity(), theirs.get_verbosity()
    logging.set_verbosity_error()
    theirs.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before[0])
        theirs.set_verbosity(before[1])


def pipeline_class(name: str) -> Any:
    """The class a model_index.json names."""
    import diffusers

    with silence_library_logs():
        return getattr(diffusers, name)


def load_frozen_module(cls: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """Weights in a folder, in evaluation mode and without gradients."""
    return (
        cls.from_pretrained(str(folder), dtype=dtype, variant=weights_variant(folder))
        .eval()
        .requires_grad_(False)
    )


def weights_variant(folder: Path) -> str | None:
    """``fp16`` where a folder holds weights under that name only, which diffusers does not try by itself."""
    weights = (
        [p.name for p in folder.glob("*") if ".safetensors" in p.name or ".bin" in p.name]
        if folder.is_dir()
        else []
    )
    return "fp16" if weights and all(".fp16" in name for name in weights) else None
