"""A LoRA merged into the weights of a frozen prior; diffusers reads the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from limbeck.priors.checkpoint_files import pipeline_class

_ADAPTER_NAME = "own"


class LoRAMerger:
    """A LoRA file, to be merged into the network and the text encoders.

    Layouts: diffusers, peft and kohya, as far as diffusers converts them.

    Args:
        path: a ``.safetensors`` file, or a folder with ``pytorch_lora_weights.safetensors``.
        scale: factor on the change of the weights.
        pipeline_name: class of the pipeline, which reads the file.
        network_config: configuration of the network.

    Raises:
        ValueError: if the file cannot be read as a LoRA.
    """

    def __init__(self, path: Path, scale: float, pipeline_name: str, network_config: Any):
        import diffusers
        import peft  # noqa: F401  diffusers needs it here, and its own error is less clear

        if not path.exists():
            raise ValueError(
                f"no LoRA {path}: give a .safetensors file, or a folder that holds "
                "pytorch_lora_weights.safetensors"
            )
        self.path, self.scale = path, scale
        self.alphas: dict[str, float] | None
        reader = pipeline_class(pipeline_name)
        options: dict[str, Any] = {"return_lora_metadata": True, "local_files_only": True}
        if issubclass(reader, diffusers.loaders.StableDiffusionXLLoraLoaderMixin):
            options["unet_config"] = network_config
        if issubclass(reader, diffusers.loaders.FluxLoraLoaderMixin):
            options["return_alphas"] = True
        if not path.is_dir():
            options["weight_name"] = path.name
        folder = path if path.is_dir() else path.parent
        try:
            contents = reader.lora_state_dict(str(folder), **options)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be read as a LoRA: {_one_line(error)}") from error
        if len(contents) == 3:
            self.state_dict, self.alphas, self.metadata = contents
        else:
            self.state_dict, self.metadata = contents
            self.alphas = None

    def merge_into_network(self, network: Any, network_name: str) -> None:
        """Add the change to the weights of the network.

        Args:
            network: the network, changed in place.
            network_name: its prefix in the file, ``unet`` or ``transformer``.

        Raises:
            ValueError: if the file has no change for this network, or it does not fit.
        """
        if not self._has(network_name):
            parts = sorted({key.split(".")[0] for key in self.state_dict})
            raise ValueError(
                f"{self.path} has no weights for a {network_name}, only for "
                f"{', '.join(parts)[:120]}: is it of another model?"
            )
        try:
            network.load_lora_adapter(
                self.state_dict,
                prefix=network_name,
                network_alphas=self.alphas,
                metadata=self.metadata,
                adapter_name=_ADAPTER_NAME,
            )
        except (RuntimeError, ValueError, KeyError) as error:
            message = f"{self.path} does not fit this {network_name}: {_one_line(error)}"
            raise ValueError(message) from error
        self._merge(network)

    def merge_into_text_encoder(self, encoder: Any, part: str) -> None:
        """Add the change to the weights of a text encoder, if the file has one for it.

        Args:
            encoder: the text encoder, changed in place.
            part: its name in the pipeline.
        """
        if not self._has(part):
            return
        pipeline_class("StableDiffusionPipeline").load_lora_into_text_encoder(
            self.state_dict,
            self.alphas,
            encoder,
            prefix=part,
            lora_scale=1.0,
            adapter_name=_ADAPTER_NAME,
            metadata=self.metadata,
        )
        self._merge(encoder)

    def _has(self, part: str) -> bool:
        return any(key.startswith(f"{part}.") for key in self.state_dict)

    def _merge(self, module: nn.Module) -> None:
        from diffusers.utils.peft_utils import recurse_remove_peft_layers
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
        if not layers:
            raise ValueError(f"{self.path} names no layer of this model: is it of another one?")
        for layer in layers:
            layer.set_scale(_ADAPTER_NAME, self.scale)
            layer.merge()
        recurse_remove_peft_layers(module)
        module.requires_grad_(False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
