"""Files of a diffusers pipeline: a folder, or one checkpoint with a folder of configurations."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.logging import disable_progress_bar as disable_diffusers_progress_bar
from safetensors import safe_open
from torch import nn
from transformers.utils.logging import disable_progress_bar

# text encoders are loaded for each new prompt in half a second, which needs no progress bar
disable_progress_bar()
disable_diffusers_progress_bar()
#: Components of a pipeline that encoding a prompt does not need.
_NON_TEXT_PARTS = ("vae", "safety_checker", "feature_extractor", "image_encoder", "watermarker")


@dataclass(frozen=True)
class CheckpointFiles:
    """Where a pipeline is read from.

    Attributes:
        folder: pipeline folder with ``model_index.json`` and one subfolder per component.
        single_file: ``.safetensors`` file with all weights, in the layout of the model's authors.
            The folder then needs configurations and tokenizers only. None: weights in the folder.
    """

    folder: Path
    single_file: Path | None = None

    @property
    def name(self) -> str:
        """Name of the model in error messages."""
        return str(self.single_file or self.folder)

    def read_config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        """Read a configuration file.

        Args:
            part: subfolder of the component; empty for the folder itself.
            file: name of the file.

        Raises:
            ValueError: if there is no such file.
        """
        path = self.folder / part / file
        if path.is_file():
            return json.loads(path.read_text())
        if part:
            raise ValueError(f"{self.folder} lacks {part}/{file}")
        raise ValueError(f"{self.folder} is no diffusers pipeline: no {file}")

    def full_config(self, cls: Any, part: str) -> dict[str, Any]:
        """Return every option of a component; the class has defaults for what the file omits.

        Args:
            cls: expected class of the component.
            part: subfolder of the component.

        Raises:
            ValueError: if the file names another class.
        """
        config = self.read_config(part)
        if config.get("_class_name", cls.__name__) != cls.__name__:
            raise ValueError(
                f"{self.name}: its {part} is a {config['_class_name']}; "
                f"this model family needs {cls.__name__}"
            )
        parameters = inspect.signature(cls).parameters
        return {name: parameter.default for name, parameter in parameters.items()} | config

    def load_module(self, cls: Any, part: str, dtype: torch.dtype) -> nn.Module:
        """Load a component as a frozen module.

        Args:
            cls: class of the component.
            part: subfolder of the component.
            dtype: precision of the weights.
        """
        if self.single_file is None:
            return load_frozen_module(cls, self.folder / part, dtype)
        with silence_library_logs():
            module = cls.from_single_file(
                str(self.single_file), config=str(self.folder), subfolder=part, dtype=dtype
            )
        return module.eval().requires_grad_(False)

    def weight_names(self) -> set[str]:
        """Names of the weights of a single file, which tell its model family; none for a folder."""
        if self.single_file is None:
            return set()
        with safe_open(self.single_file, "pt") as file:
            return set(file.keys())

    def load_text_pipeline(
        self, pipeline_name: str, network_name: str, dtype: torch.dtype, **options: Any
    ) -> Any:
        """Load a pipeline with its tokenizers and text encoders only.

        Args:
            pipeline_name: class of the pipeline.
            network_name: component that is the denoiser, which is left out.
            dtype: precision of the text encoders.
            **options: further options of the pipeline.
        """
        with silence_library_logs():
            cls = pipeline_class(pipeline_name)
            parameters = inspect.signature(cls).parameters
            for part, parameter in parameters.items():
                unused = part in _NON_TEXT_PARTS or part == network_name
                optional = parameter.default in (inspect.Parameter.empty, None)
                if optional and (unused or not (self.folder / part).is_dir()):
                    options[part] = None
            options["dtype"] = dtype
            if self.single_file is not None:
                return cls.from_single_file(
                    str(self.single_file), config=str(self.folder), **options
                )
            return cls.from_pretrained(
                str(self.folder), variant=weights_variant(self.folder / "text_encoder"), **options
            )


@contextmanager
def silence_library_logs() -> Iterator[None]:
    """Hide the warnings of transformers and diffusers about image processors and precisions."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (transformers_logging, diffusers_logging)
    before = [logging.get_verbosity() for logging in libraries]
    for logging in libraries:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, verbosity in zip(libraries, before, strict=True):
            logging.set_verbosity(verbosity)


def pipeline_class(name: str) -> Any:
    """Return the class of diffusers that a ``model_index.json`` names."""
    import diffusers

    with silence_library_logs():
        return getattr(diffusers, name)


def load_frozen_module(cls: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """Load a module in evaluation mode and without gradients.

    Args:
        cls: class of the module, of diffusers or transformers.
        folder: its folder.
        dtype: precision of the weights.
    """
    module = cls.from_pretrained(str(folder), dtype=dtype, variant=weights_variant(folder))
    return module.eval().requires_grad_(False)


def weights_variant(folder: Path) -> str | None:
    """Return ``fp16`` if all weights of a folder have that name, else None.

    diffusers does not look for ``fp16`` weights by itself.
    """
    files = [path.name for path in folder.glob("*")] if folder.is_dir() else []
    weights = [name for name in files if ".safetensors" in name or ".bin" in name]
    return "fp16" if weights and all(".fp16" in name for name in weights) else None
