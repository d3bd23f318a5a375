"""list known models, their memory and recommended settings"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.priors.catalog import (
    CONTROL_NETS,
    IP_ADAPTERS,
    KNOWN_MODELS,
    TINY_AUTOENCODERS,
    KnownModel,
)
from limbeck.priors.hub import find_cached
from limbeck.priors.recommended_settings import RECOMMENDED_SETTINGS


@dataclass(frozen=True)
class ModelsOptions:
    """Which models are described.

    Attributes:
        names: words that the name or hub id of a model contains; none prints one table of all.
    """

    names: tuple[str, ...] = ()


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck models``: the table of published models, or the details of some."""
    from limbeck.config.command_line import parse

    about = "List known models, or describe those whose name contains every WORD."
    (options,) = parse([(ModelsOptions, None)], argv, "limbeck models", about, "names")
    print(show(options.names))


def _cached_repo(model: KnownModel) -> str:
    """The hub id whose files are in the local cache; empty if none are."""
    return next((repo for repo in (model.repo_id, *model.mirrors) if find_cached(repo, None)), "")


def _available_repo(model: KnownModel) -> str:
    """The hub id that can be downloaded."""
    return model.mirrors[0] if model.removed else model.repo_id


def model_table(models: Sequence[KnownModel] = KNOWN_MODELS) -> str:
    """One line per model: parameters in millions, GB of frozen weights at 32 and 16 bits."""
    lines = [
        f"{'model':<50} {'kind':<5} {'size':>5} {'params':>8} {'text':>7} "
        f"{'32 bit':>7} {'16 bit':>7} {'fetch':>7}  cached"
    ]
    for model in models:
        lines.append(
            f"{_available_repo(model):<50} {model.prediction_type:<5} {model.resolution:>5} "
            f"{model.network_params:>7.0f}M {model.text_encoder_params:>6.0f}M "
            f"{model.memory_gb(4):>5.1f}GB {model.memory_gb(2):>5.1f}GB "
            f"{model.download_gb:>5.1f}GB  {'yes' if _cached_repo(model) else '-'}"
        )
    return "\n".join(lines)


def describe_model(model: KnownModel) -> str:
    """Hub id, license, download size, memory and recommended settings of one model."""
    lines = [f"{model.name}: --model {_cached_repo(model) or _available_repo(model)}"]
    if model.removed:
        mirrors = ", ".join(model.mirrors)
        lines.append(f"  {model.repo_id} has left the hub; the same weights: {mirrors}")
    if model.gated:
        lines.append("  accept its license on its hub page, then run: hf auth login")
    lines.append(f"  download: {model.download_gb:.1f} GB")
    for name, width in (("float32", 4), ("bfloat16, float16", 2)):
        frozen, encoding = model.memory_gb(width), model.memory_gb(width, True)
        lines.append(
            f"  frozen weights in {name}: {frozen:.1f} GB, "
            f"and {encoding:.1f} GB while prompts are encoded"
        )
    if model.family in TINY_AUTOENCODERS:
        lines.append(f"  tiny autoencoder: --model.vae {TINY_AUTOENCODERS[model.family]}")
    for control in CONTROL_NETS.get(model.repo_id, ()):
        lines.append(f"  ControlNet for 3D, not tried: --model.control {control}")
    if model.repo_id in IP_ADAPTERS:
        lines.append(f"  image prompts, not tried: --model.ip-adapter {IP_ADAPTERS[model.repo_id]}")
    for method, options, source in RECOMMENDED_SETTINGS[model.family]:
        lines.append(f"  --method {method} {options}\n      {source}")
    return "\n".join(lines)


def show(names: Sequence[str]) -> str:
    """The table of all models, or the details of those whose hub id or name contains every word.

    Raises:
        ValueError: if no model contains all of ``names``.
    """
    if not names:
        return (
            f"{model_table()}\n\nMemory is that of the frozen weights. "
            "limbeck models WORD describes one model and recommends settings."
        )
    matches = [
        model for model in KNOWN_MODELS if all(_plain(word) in _known_as(model) for word in names)
    ]
    if not matches:
        words = " ".join(names)
        raise ValueError(f"no known model has {words!r} in its name; limbeck models lists all")
    return "\n\n".join(describe_model(model) for model in matches)


def _known_as(model: KnownModel) -> str:
    """What a model is called, also with SD for Stable Diffusion, as people write it."""
    short = model.name.replace("Stable Diffusion", "SD")
    return _plain(f"{model.repo_id} {model.name} {short} {model.family} {model.mirrors}")


def _plain(text: str) -> str:
    """Lower-case letters and digits of ``text``."""
    return re.sub(r"[^a-z0-9]", "", text.lower())
