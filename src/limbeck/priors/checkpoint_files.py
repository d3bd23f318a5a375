"""Files of a diffusers pipeline: a folder, or one checkpoint with a folder of configurations."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.logging import disable_progress_bar as disable_diffusers_progress_bar
from torch import nn
from transformers.utils.logging import disable_progress_bar

from limbeck.priors.weight_files import WeightFiles, preferred_weights, weight_names
from limbeck.system.files import one_line, open_tensors, read_json_object
from limbeck.system.out_of_memory import is_out_of_memory

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
        single_file: ``.safetensors`` file, or pickle of MVDream, with all weights, in the layout of
            the model's authors.
            The folder then needs configurations and tokenizers only. None: weights in the folder.
    """

    folder: Path
    single_file: Path | None = None

    @property
    def name(self) -> str:
        """Name of the model in error messages."""
        return str(self.single_file or self.folder)

    def place(self, part: str, file: str = "config.json") -> str:
        """Path of a configuration file, for error messages."""
        return str(self.folder / part / file)

    def read_config(self, part: str, file: str = "config.json") -> dict[str, Any]:
        """Read a configuration file.

        Args:
            part: subfolder of the component; empty for the folder itself.
            file: name of the file.

        Raises:
            ValueError: if there is no such file, or it is no JSON object.
        """
        path = self.folder / part / file
        if path.is_file():
            return read_json_object(path)
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
                f"{self.name}: its {part} is a {config['_class_name']!s:.60}; "
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

        Raises:
            ValueError: if its files cannot be read, or tensors are missing or left over.
        """
        if self.single_file is None:
            return load_frozen_module(cls, self.folder / part, dtype)
        what, options = f"the {part} of {self.single_file}", {"dtype": dtype}
        try:
            with silence_library_logs(), loading(what, passed_on=(NotImplementedError,)):
                module = self._from_single_file(cls, part, options)
        except NotImplementedError:  # missing tensors have no data to move to a device
            missing: list[str] = []

            class Recorded(cls):
                def load_state_dict(self, *args: Any, **options: Any) -> Any:
                    result = super().load_state_dict(*args, **options)
                    missing.extend(result.missing_keys)
                    return result

            with silence_library_logs(), loading(what):
                self._from_single_file(Recorded, part, options | {"low_cpu_mem_usage": False})
            check_none_missing(missing, f"{self.single_file} ({part})")
            raise
        return module.eval().requires_grad_(False)

    def _from_single_file(self, cls: Any, part: str, options: dict[str, Any]) -> Any:
        file, config = str(self.single_file), str(self.folder)
        return cls.from_single_file(file, config=config, subfolder=part, **options)

    def text_encoders(self) -> tuple[str, ...]:
        """Names of the text encoders of the pipeline."""
        index = self.read_config("", "model_index.json")
        return tuple(
            part
            for part in sorted(index)
            if part.startswith("text_encoder") and (self.folder / part).is_dir()
        )

    def weight_names(self) -> set[str]:
        """Names of the weights of a single file, which tell its model family; none for a folder."""
        if self.single_file is None:
            return set()
        return weight_names(self.single_file)

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
        cls = pipeline_class(pipeline_name)
        for part, parameter in inspect.signature(cls).parameters.items():
            unused = part in _NON_TEXT_PARTS or part == network_name
            optional = parameter.default in (inspect.Parameter.empty, None)
            if optional and (unused or not (self.folder / part).is_dir()):
                options[part] = None
        if self.single_file is not None:
            return self._text_pipeline_of_single_file(cls, dtype, options)
        for part in self.text_encoders():
            encoder = load_frozen_module(self._text_encoder_class(part), self.folder / part, dtype)
            options[part] = encoder
        with silence_library_logs(), loading(f"the tokenizer of {self.folder}"):
            # by its class, as the folder may be of another pipeline of this family
            return cls.from_pretrained(str(self.folder), **options)

    def _text_pipeline_of_single_file(
        self, cls: Any, dtype: torch.dtype, options: dict[str, Any]
    ) -> Any:
        with silence_library_logs(), loading(f"the text encoder of {self.single_file}"):
            pipe = cls.from_single_file(
                str(self.single_file), config=str(self.folder), dtype=dtype, **options
            )
        for part in self.text_encoders():
            missing = meta_tensors(getattr(pipe, part))
            check_none_missing(missing, f"{self.single_file} ({part})")
        return pipe

    def _text_encoder_class(self, part: str) -> Any:
        """The class of a text encoder that ``model_index.json`` names.

        Raises:
            ValueError: if it is not one of transformers.
        """
        import transformers

        entry = self.read_config("", "model_index.json")[part]
        name = entry[-1] if isinstance(entry, list) and entry else entry
        cls = getattr(transformers, name, None) if isinstance(name, str) else None
        is_model = inspect.isclass(cls) and issubclass(cls, transformers.PreTrainedModel)
        if not is_model or entry[0] != "transformers":
            raise ValueError(
                f"{self.folder / 'model_index.json'}: its {part} {entry!r:.80} is no text encoder "
                "of transformers"
            )
        return cls


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


@contextmanager
def loading(what: str, passed_on: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn an error of the libraries that read a model into one line that names the file.

    They raise whatever they meet in an unexpected file: a KeyError, a TypeError, a RuntimeError.

    Args:
        what: what is being read.
        passed_on: errors that name the file already.

    Raises:
        ValueError: instead of any error but these, one of too little memory or of a missing
            package.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, (ModuleNotFoundError, *passed_on)):
            raise
        raise ValueError(f"{what} cannot be loaded: {one_line(error)}") from error


def number(config: Mapping[str, Any], key: str, place: str) -> float:
    """Return a finite number of a configuration.

    Args:
        config: the configuration.
        key: name of the option.
        place: its file, for error messages.

    Raises:
        ValueError: if it is missing, no number, or not finite.
    """
    return _checked(config, key, place, "a number", (int, float), -1e308, 1e308)


def positive_int(config: Mapping[str, Any], key: str, place: str) -> int:
    """Return a positive integer of a configuration.

    Args:
        config: the configuration.
        key: name of the option.
        place: its file, for error messages.

    Raises:
        ValueError: if it is missing or no positive integer.
    """
    return int(_checked(config, key, place, "a positive integer", (int,), 0, 1 << 31))


def _checked(
    config: Mapping[str, Any],
    key: str,
    place: str,
    accepted: str,
    types: tuple[type, ...],
    low: float,
    high: float,
) -> float:
    """The value of an option, of one of the types and between two others; both excluded."""
    value: Any = config.get(key)
    has_type = isinstance(value, types) and not isinstance(value, bool)
    if not (has_type and low < value < high):
        raise ValueError(f"{place}: {key} must be {accepted}, not {value!r:.60}")
    return value


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

    Raises:
        ValueError: if its files cannot be read, or tensors are missing, left over or of other
            sizes.
    """
    import transformers

    read_json_object(folder / "config.json")
    weights = preferred_weights(path.name for path in folder.iterdir())
    if weights is None:
        raise ValueError(f"{folder} has no weights, such as diffusion_pytorch_model.safetensors")
    _check_readable(folder, weights)
    pickled = weights.suffix != ".safetensors"
    what = f"{folder}, a pickle of which only tensors are read," if pickled else str(folder)
    with silence_library_logs(), loading(what):
        module, report = cls.from_pretrained(
            str(folder),
            dtype=dtype,
            variant=weights.variant or None,
            use_safetensors=not pickled,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            local_files_only=True,
        )
    place = str(folder / weights.files[0] if len(weights.files) == 1 else folder)
    wrong = [entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]]
    # files of text encoders commonly hold other parts, such as the image encoder of CLIP
    if not issubclass(cls, transformers.PreTrainedModel):
        wrong += report["unexpected_keys"]
    if wrong:
        raise ValueError(
            f"{place} does not fit {folder / 'config.json'}: {some(sorted(wrong))} would be left "
            "out"
        )
    check_none_missing([*report["missing_keys"], *meta_tensors(module)], place)
    return module.eval().requires_grad_(False)


def _check_readable(folder: Path, weights: WeightFiles) -> None:
    """Raise ValueError if a file is damaged, or the index of shards names others."""
    for name in weights.files:
        if weights.suffix == ".safetensors":
            with open_tensors(folder / name):
                pass
    for name in weights.indices:
        shards = read_json_object(folder / name).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"{folder / name} has no weight_map of tensors to files")
        missing = {str(file) for file in shards.values() if not (folder / str(file)).is_file()}
        if missing:
            raise ValueError(f"{folder / name} names {some(sorted(missing))}, which is missing")


def meta_tensors(module: nn.Module) -> list[str]:
    """Parameters without data: their tensors are not in the file."""
    return [name for name, parameter in module.named_parameters() if parameter.is_meta]


def check_none_missing(names: Collection[str], place: str) -> None:
    """Raise ValueError if a model lacks tensors.

    Args:
        names: their names.
        place: the file, for the message.
    """
    if names:
        raise ValueError(f"{place} lacks tensors of its model: {some(sorted(set(names)))}")


def some(names: list[str]) -> str:
    """Return the first names and the number of the others, for messages."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
