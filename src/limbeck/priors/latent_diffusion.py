"""Networks that work on the latents of an autoencoder: AutoencoderKL, or a tiny one of the TAESD layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float
from torch import Tensor

from limbeck.priors.checkpoint_files import CheckpointFiles, load_frozen_module
from limbeck.priors.diffusers_base import DiffusersPrior
from limbeck.priors.runtime import OffloadedFunction, place_module, swap_devices


class LatentDiffusion(DiffusersPrior):
    """A network and the autoencoder of its latents, whose scaling and shift are read from the autoencoder's file."""

    extra_parts = ("vae",)
    vae: Any

    def _load_vae(self, channels: int) -> int:
        """Load the autoencoder of ``channels`` channels; answers pixels per latent."""
        files = CheckpointFiles(Path(self.model.vae)) if self.model.vae else self.files
        part = "" if self.model.vae else "vae"
        config = files.read_config(part)
        known: dict[str, type] = {c.__name__: c for c in (AutoencoderKL, AutoencoderTiny)}
        name = config.get("_class_name", "")
        if name not in known:
            raise ValueError(
                f"{files.name}: its autoencoder is a {name or 'nameless class'}; known are {', '.join(known)}"
            )
        # the files say of some autoencoders that float16 overflows in them
        self.vae_dtype = (
            torch.float32
            if self.dtype == torch.float16 and config.get("force_upcast")
            else self.dtype
        )
        whole = (
            files.load_module(known[name], part, self.vae_dtype)
            if part
            else load_frozen_module(known[name], files.folder, self.vae_dtype)
        )
        self.vae = place_module(whole, self.runtime, "cpu" if self.runtime.cpu_offload else self.device)
        if self.runtime.vae_slicing:
            self.vae.enable_slicing()
        if self.runtime.vae_tiling:
            self.vae.enable_tiling()
        if self.runtime.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        said = self.vae.config
        if said.latent_channels != channels:
            raise ValueError(
                f"{files.name}: its autoencoder has {said.latent_channels} channels, the network works on {channels}"
            )
        if said.scaling_factor is None:
            raise ValueError(f"{files.name}: its autoencoder has no scaling_factor")
        mean, std = (said.get(key) for key in ("latents_mean", "latents_std"))
        wide = lambda v: torch.tensor(v, device=self.device).view(1, -1, 1, 1)  # noqa: E731
        self.latent_shift: float | Tensor = wide(mean) if mean else said.get("shift_factor") or 0.0
        self.latent_scale: float | Tensor = (
            said.scaling_factor / wide(std) if mean and std else said.scaling_factor
        )
        return 2 ** (
            len(
                said.block_out_channels
                if name == AutoencoderKL.__name__
                else said.decoder_block_out_channels
            )
            - 1
        )

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        return self._with_vae(self._vae_encode, image)

    def decode(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        return self._with_vae(self._vae_decode, x0)

    def _with_vae(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Work of the autoencoder, which may have to be fetched for it."""
        if not self.runtime.cpu_offload:
            return work(x)
        near = partial(swap_devices, [self.network], [self.vae], self.device)
        out: Tensor = OffloadedFunction.apply(x, work, near)
        return out

    def _vae_encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        said = self.vae.encode((image * 2 - 1).to(self.vae_dtype))
        mean = said.latent_dist.mean if isinstance(self.vae, AutoencoderKL) else said.latents
        return (mean.float() - self.latent_shift) * self.latent_scale

    def _vae_decode(self, x0: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        image = self.vae.decode(
            (x0 / self.latent_scale + self.latent_shift).to(self.vae_dtype), return_dict=False
        )[0]
        return (image.float() / 2 + 0.5).clamp(0, 1)
