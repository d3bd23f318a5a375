"""Base class of latent diffusion models, with AutoencoderKL or a tiny autoencoder (TAESD)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.tensors import to_unit_range
from limbeck.priors.checkpoint_files import CheckpointFiles, load_frozen_module, number
from limbeck.priors.diffusers_base import DiffusersPrior
from limbeck.priors.runtime import OffloadedFunction, place_module, swap_devices


class LatentDiffusion(DiffusersPrior):
    """A denoiser and the autoencoder of its latents.

    Scale and shift of the latents are read from the autoencoder's file.

    Attributes:
        vae: the autoencoder.
        vae_dtype: its precision.
        latent_shift: subtracted from encoded images, a number or one per channel.
        latent_scale: factor on the shifted latents, a number or one per channel.
        autoencoders: classes of autoencoders that the family reads.
    """

    extra_parts: ClassVar[tuple[str, ...]] = ("vae",)
    autoencoders: ClassVar[tuple[type, ...]] = (AutoencoderKL, AutoencoderTiny)
    #: Whether an autoencoder whose file does not mention force_upcast has the default of its class
    #: (true for AutoencoderKL), as in diffusers' pipelines of XL only.
    upcasts_vae_by_default: ClassVar[bool] = False
    vae: Any
    vae_dtype: torch.dtype
    latent_shift: float | Tensor
    latent_scale: float | Tensor

    def _load_vae(self, channels: int) -> int:
        """Load the autoencoder.

        Args:
            channels: channels of the latents of the network.

        Returns:
            Pixels per latent, in each direction.

        Raises:
            ValueError: if it is of an unknown class, has other channels or no scaling factor.
        """
        files = CheckpointFiles(Path(self.model.vae)) if self.model.vae else self.files
        part = "" if self.model.vae else "vae"
        file_config = files.read_config(part)
        classes = {cls.__name__: cls for cls in self.autoencoders}
        name = file_config.get("_class_name", "")
        if not isinstance(name, str) or name not in classes:
            raise ValueError(
                f"{files.name}: its autoencoder is a {name or 'nameless class'!s:.60}; "
                f"supported are {', '.join(classes)}"
            )
        # files with force_upcast are of autoencoders in which float16 overflows
        option = inspect.signature(classes[name]).parameters.get("force_upcast")
        default = option is not None and option.default and self.upcasts_vae_by_default
        upcast = file_config.get("force_upcast", default)
        self.vae_dtype = torch.float32 if upcast and self.dtype == torch.float16 else self.dtype
        if part:
            vae = files.load_module(classes[name], part, self.vae_dtype)
        else:
            vae = load_frozen_module(classes[name], files.folder, self.vae_dtype)
        device = "cpu" if self.runtime.cpu_offload else self.device
        self.vae = place_module(vae, self.runtime, device)
        if self.runtime.vae_slicing:
            self.vae.enable_slicing()
        if self.runtime.vae_tiling:
            self.vae.enable_tiling()
        if self.runtime.gradient_checkpointing:
            try:
                self.vae.enable_gradient_checkpointing()
            except ValueError as error:
                raise ValueError(
                    f"gradient_checkpointing: {name} has none: leave it out"
                ) from error
        config = self.vae.config
        vae_channels, factor = self._read_vae_layout(config)
        if vae_channels != channels:
            raise ValueError(
                f"{files.name}: its autoencoder has {vae_channels} channels, the network {channels}"
            )
        self._set_latent_scale(config, files.place(part))
        return factor

    def _read_vae_layout(self, config: Any) -> tuple[int, int]:
        """Return the channels of the latents, and the pixels per latent in each direction."""
        levels = config.get("block_out_channels") or config["decoder_block_out_channels"]
        return config["latent_channels"], 2 ** (len(levels) - 1)

    def _set_latent_scale(self, config: Any, place: str) -> None:
        """Set latent_shift and latent_scale from the configuration of the autoencoder."""
        if config.scaling_factor is None:
            raise ValueError(f"{place}: the autoencoder has no scaling_factor")
        if number(config, "scaling_factor", place) == 0:
            raise ValueError(f"{place}: scaling_factor must not be 0")
        if config.get("shift_factor") is not None:
            number(config, "shift_factor", place)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        self.latent_shift = self._per_channel(mean) if mean else config.get("shift_factor") or 0.0
        self.latent_scale = config.scaling_factor
        if mean and std:
            self.latent_scale = config.scaling_factor / self._per_channel(std)

    def _per_channel(self, values: Sequence[float]) -> Float[Tensor, "1 c 1 1"]:
        return torch.tensor(values, device=self.device).view(1, -1, 1, 1)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        return self._with_vae(self._vae_encode, image)

    def decode(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        return self._with_vae(self._vae_decode, x0)

    def _normalize(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Return x0 of the latents of the autoencoder."""
        return (latents - self.latent_shift) * self.latent_scale

    def _denormalize(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Return the latents of the autoencoder, the inverse of ``_normalize``."""
        return x0 / self.latent_scale + self.latent_shift

    def _with_vae(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a function that uses the autoencoder, with CPU offload if the options say so."""
        if not self.runtime.cpu_offload:
            return function(x)
        load_vae = partial(swap_devices, self.denoising_modules, [self.vae], self.device)
        output: Tensor = OffloadedFunction.apply(x, function, load_vae)
        return output

    def _vae_encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        encoded = self.vae.encode((image * 2 - 1).to(self.vae_dtype))
        is_tiny = isinstance(self.vae, AutoencoderTiny)
        latents = encoded.latents if is_tiny else encoded.latent_dist.mean
        return self._normalize(latents.float())

    def _vae_decode(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        latents = self._denormalize(x0).to(self.vae_dtype)
        image = self.vae.decode(latents, return_dict=False)[0]
        return to_unit_range(image.float() / 2 + 0.5)
