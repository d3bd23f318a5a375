"""A user's own LoRA as part of a frozen prior: diffusers reads the file, and its change is added to the weights for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from limbeck.priors.checkpoint_files import pipeline_class


class LoRAMerger:
    """What a LoRA file holds for the network and for the text encoders. ValueError where it cannot be read.

    Layouts: diffusers, peft and kohya, as far as diffusers converts them.
    """

    def __init__(self, path: Path, scale: float, pipeline: str, config: Any):
        import diffusers
        import peft  # noqa: F401  diffusers needs it for this, and says so less clearly

        if not path.exists():
            raise ValueError(
                f"no LoRA {path}: give a .safetensors file, or a folder that holds pytorch_lora_weights.safetensors"
            )
        self.path, self.scale = path, scale
        self.alphas: dict[str, float] | None
        reader = pipeline_class(pipeline)
        options: dict[str, Any] = {"return_lora_metadata": True, "local_files_only": True}
        if issubclass(reader, diffusers.loaders.StableDiffusionXLLoraLoaderMixin):
            options["unet_config"] = config
        if issubclass(reader, diffusers.loaders.FluxLoraLoaderMixin):
            options["return_alphas"] = True
        folder = path if path.is_dir() else path.parent
        name = {} if path.is_dir() else {"weight_name": path.name}
        try:
            said = reader.lora_state_dict(str(folder), **name, **options)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{path} cannot be read as a LoRA: {' '.join(str(error).split())[:200]}"
            ) from error
        self.state_dict, self.alphas, self.metadata = (
            said if len(said) == 3 else (said[0], None, said[1])
        )

    def merge_into_network(self, network: Any, part: str) -> None:
        """Add the change to the weights of the network; ValueError where the file holds nothing that fits it."""
        if not any(key.startswith(f"{part}.") for key in self.state_dict):
            kinds = sorted({key.split(".")[0] for key in self.state_dict})
            raise ValueError(
                f"{self.path} holds nothing for a {part}, but for {', '.join(kinds)[:120]}: is it of another model?"
            )
        try:
            network.load_lora_adapter(
                self.state_dict,
                prefix=part,
                network_alphas=self.alphas,
                metadata=self.metadata,
                adapter_name="own",
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.path} does not fit this {part}: {' '.join(str(error).split())[:200]}"
            ) from error
        self._fuse(network)

    def merge_into_text_encoder(self, encoder: Any, part: str) -> None:
        """Add the change to the weights of a text encoder, where the file holds one."""
        if not any(key.startswith(f"{part}.") for key in self.state_dict):
            return
        pipeline_class("StableDiffusionPipeline").load_lora_into_text_encoder(
            self.state_dict,
            self.alphas,
            encoder,
            prefix=part,
            lora_scale=1.0,
            adapter_name="own",
            metadata=self.metadata,
        )
        self._fuse(encoder)

    def _fuse(self, module: nn.Module) -> None:
        from diffusers.utils.peft_utils import recurse_remove_peft_layers
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
        if not layers:
            raise ValueError(f"{self.path} names no layer of this model: is it of another one?")
        for layer in layers:
            layer.set_scale("own", self.scale)
            layer.merge()
        recurse_remove_peft_layers(module)
        module.requires_grad_(False)
