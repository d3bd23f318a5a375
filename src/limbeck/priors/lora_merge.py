"""A LoRA merged into the weights of a frozen prior, every tensor of its file or none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.priors.checkpoint_files import pipeline_class, silence_library_logs
from limbeck.priors.lora_files import LoRAPair, read_lora


class LoRAMerger:
    """A LoRA file, to be merged into the network and the text encoders.

    Layouts: diffusers, peft and kohya, and what else diffusers converts.

    Args:
        path: a ``.safetensors`` file, or a folder with ``pytorch_lora_weights.safetensors`` or
            peft's ``adapter_model.safetensors``.
        scale: factor on the change of the weights.
        pipeline_name: class of the pipeline, which converts foreign layouts.
        network_name: ``unet`` or ``transformer``.
        network_config: configuration of the network.
        text_encoders: names of the text encoders of this model.

    Raises:
        ValueError: if the file cannot be read whole, has nothing for the network, or something for
            a component that the model does not have.
    """

    def __init__(
        self,
        path: Path,
        scale: float,
        pipeline_name: str,
        network_name: str,
        network_config: Any,
        text_encoders: tuple[str, ...],
    ):
        self.path, self.scale = path, scale
        convert = partial(_convert_by_diffusers, pipeline_name, network_config)
        self._contents = read_lora(path, network_name, convert)
        others = sorted(set(self._contents) - {network_name, *text_encoders})
        if others or network_name not in self._contents:
            raise ValueError(
                f"{path} has weights for {', '.join(sorted(self._contents))}, this model has "
                f"{', '.join((network_name, *text_encoders))}: is it of another model?"
            )

    def merge(self, module: nn.Module, component: str) -> None:
        """Add the change to the weights of a component, if the file has one for it.

        Args:
            module: the component, changed in place.
            component: its name in the pipeline.

        Raises:
            ValueError: if a layer of the file is not one of the component, or of another size.
        """
        pairs = self._contents.get(component, {})
        layers = dict(module.named_modules())
        matched = {_layer_name(name, layers): pair for name, pair in pairs.items()}
        unknown = sorted(name for name in matched if name not in layers)
        if unknown or len(matched) < len(pairs):
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise ValueError(
                f"{self.path} does not fit this {component}, which has no layer "
                f"{unknown[0] if unknown else 'for each of the names'}{more}: is it of another "
                "model?"
            )
        changes = {
            name: self._change(layers[name], pair, f"{component}.{name}")
            for name, pair in matched.items()
        }
        with torch.no_grad():
            for name, change in changes.items():
                weight: Any = layers[name].weight
                weight.copy_(weight.float() + change.to(weight.device))

    def _change(self, layer: nn.Module, pair: LoRAPair, name: str) -> Tensor:
        """scale B A in the shape of the weight of a layer."""
        a, b = pair
        weight = getattr(layer, "weight", None)
        shape = (*b.shape[:1], *a.shape[1:])
        # 1 x 1 convolutions are stored as matrices by some, and the other way around
        if not isinstance(layer, nn.Linear | nn.Conv2d) or weight is None:
            raise ValueError(
                f"{self.path} does not fit this model: {name} is a {type(layer).__name__}"
            )
        if _without_ones(shape) != _without_ones(tuple(weight.shape)):
            raise ValueError(
                f"{self.path} does not fit this model: {name} is {list(weight.shape)}, the change "
                f"{list(shape)}"
            )
        return self.scale * (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without a kernel of 1 x 1."""
    return shape[:2] if all(length == 1 for length in shape[2:]) else shape


def _layer_name(name: str, layers: Mapping[str, nn.Module]) -> str:
    """The name of a layer of a file in the module; CLIP has lost a prefix in transformers 5."""
    if name in layers:
        return name
    for other in (name.removeprefix("text_model."), f"text_model.{name}"):
        if other in layers:
            return other
    return name


def _convert_by_diffusers(
    pipeline_name: str, network_config: Any, tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """Convert kohya's and other layouts to that of diffusers; also return alpha by layer."""
    import diffusers

    reader = pipeline_class(pipeline_name)
    if not issubclass(reader, diffusers.loaders.lora_base.LoraBaseMixin):
        raise ValueError(
            f"diffusers converts no LoRA for {pipeline_name}: give a file in diffusers' layout, "
            "whose names begin with transformer."
        )
    options: dict[str, Any] = {"return_lora_metadata": True}
    if issubclass(reader, diffusers.loaders.StableDiffusionXLLoraLoaderMixin):
        options["unet_config"] = network_config
    if issubclass(reader, diffusers.loaders.FluxLoraLoaderMixin):
        options["return_alphas"] = True
    with silence_library_logs():
        converted, *alphas, _ = reader.lora_state_dict(tensors, **options)
    return converted, {
        key: float(alpha) for key, alpha in (alphas[0] or {}).items()
    } if alphas else {}
