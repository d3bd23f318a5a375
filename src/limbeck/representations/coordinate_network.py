"""Coordinate networks: an image as a small network from positions to colors.

References:
    Sitzmann et al., Implicit Neural Representations with Periodic Activation Functions,
    NeurIPS 2020, arXiv 2006.09661.
    Tancik et al., Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
    Domains, NeurIPS 2020, arXiv 2006.10739.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.config.ranges import check_minimums
from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import (
    Render,
    Representation,
    RepresentationConfig,
    latent_shape,
)
from limbeck.representations.image_init import check_image_options, fit_to_images, initial_rows
from limbeck.representations.particle_parameters import ParticleParameters
from limbeck.system.random import RowRandom

Space = Literal["image", "latent"]
#: Learning rate of fits to initial images, whose gradient has no noise.
_INIT_LR = 5e-3


def pixel_coordinates(height: int, width: int) -> Float[Tensor, "p 2"]:
    """Return the centers of the pixels, x then y; the short side spans [-1, 1]."""
    short = min(height, width)
    y, x = ((2 * torch.arange(side) + 1 - side) / short for side in (height, width))
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    return grid.reshape(-1, 2)


class CoordinateNetworks(ParticleParameters):
    """One network per particle; each layer is one batched matrix product over particles.

    Images pass a sigmoid; latents are unbounded, because tanh would clip them.

    Args:
        initial: initial ``weight{i}`` ``[N, out, in]`` and ``bias{i}`` ``[N, out]`` of every layer.
        lr: peak learning rate.
        size: height and width of a render.
        space: what the networks return.
        omega: frequency of the sine layers sin(omega (W h + b)). 0: ReLU layers.
        frequencies: of the Fourier features of the input. Empty: the coordinates themselves.
    """

    frequencies: Tensor
    inputs: Tensor

    def __init__(
        self,
        initial: dict[str, Tensor],
        lr: float,
        size: tuple[int, int],
        space: Space,
        omega: float,
        frequencies: Float[Tensor, "m 2"],
    ):
        super().__init__(initial, dict.fromkeys(initial, lr))
        self.size, self.space, self.omega = size, space, omega
        self.num_layers = len(initial) // 2
        self.register_buffer("frequencies", frequencies, persistent=False)
        inputs = self._encode(pixel_coordinates(*size))
        self.register_buffer("inputs", inputs, persistent=False)

    def _encode(self, v: Float[Tensor, "p 2"]) -> Float[Tensor, "p f"]:
        """Return v, or (cos 2 pi B v, sin 2 pi B v) with v in units of the short side."""
        if not len(self.frequencies):
            return v
        phase = math.pi * v @ self.frequencies.T
        return torch.cat([phase.cos(), phase.sin()], -1)

    def render_at(
        self, particle: Int[Tensor, "b"], height: int, width: int
    ) -> Float[Tensor, "b c h w"]:
        """Render at any resolution.

        Args:
            particle: particle of each row.
            height: height in pixels, or in pixels of latents.
            width: width, likewise.
        """
        if (height, width) == self.size:
            inputs = self.inputs
        else:
            inputs = self._encode(pixel_coordinates(height, width).to(self.inputs))
        h = inputs[None].expand(len(particle), -1, -1)
        for layer in range(self.num_layers):
            weight = self.gather(f"weight{layer}", particle).transpose(1, 2)
            h = torch.baddbmm(self.gather(f"bias{layer}", particle)[:, None], h, weight)
            if layer + 1 < self.num_layers:
                h = (self.omega * h).sin() if self.omega else h.relu()
        out = h.transpose(1, 2).reshape(len(particle), -1, height, width)
        return out.sigmoid() if self.space == "image" else out

    def render(self, request: RenderRequest) -> Render:
        return Render(self.render_at(request.particle, *self.size), self.space)


@dataclass(frozen=True)
class _CoordinateNetworkConfig(RepresentationConfig):
    """Options of both networks.

    Attributes:
        space: what the network returns: image, or latent for latents of the model.
        width: units per layer.
        depth: hidden layers.
        init_steps: steps that fit the network to ``images``.
        lr: peak learning rate.
    """

    space: Space = "image"
    width: int = 128
    depth: int = 3
    init_steps: int = 300
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_minimums(self, width=1, depth=1, init_steps=0)
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        check_image_options(self)

    @abc.abstractmethod
    def _frequencies(self, seed: int) -> Float[Tensor, "m 2"]:
        """Return the frequencies of the input features; empty for plain coordinates."""

    @abc.abstractmethod
    def _init_bounds(self, layer: int, fan_in: int) -> tuple[float, float]:
        """Return the bounds of the uniform initial weights and biases of a layer."""

    def _new_networks(
        self, rng: RowRandom, shape: tuple[int, ...], seed: int, omega: float
    ) -> CoordinateNetworks:
        """Return untrained networks for renders of a shape (channels, height, width)."""
        channels, height, width = shape
        frequencies = self._frequencies(seed)
        sizes = [2 * len(frequencies) or 2, *[self.width] * self.depth, channels]
        initial = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            weight_bound, bias_bound = self._init_bounds(layer, fan_in)
            weight = 2 * rng.uniform(f"weight{layer}", fan_out, fan_in) - 1
            bias = 2 * rng.uniform(f"bias{layer}", fan_out) - 1
            initial[f"weight{layer}"] = weight_bound * weight
            initial[f"bias{layer}"] = bias_bound * bias
        return CoordinateNetworks(initial, self.lr, (height, width), self.space, omega, frequencies)

    def _build(self, prior: Prior, particles: int, seed: int, omega: float) -> Representation:
        canvas_size = self.canvas_size(prior)
        target = self.distinct_initial_images(prior, particles)
        shape = (3, *canvas_size) if self.space == "image" else latent_shape(prior, canvas_size)
        if len(shape) != 3:
            raise ValueError(
                f"a coordinate network needs a model of images, not of vectors of {shape[0]} "
                "numbers: use --representation latents"
            )
        if target is not None and self.space == "latent":
            with torch.no_grad():
                target = prior.encode(target.to(prior.device))
        rng = initial_rows(self, particles, seed)
        networks = self._new_networks(rng, shape, seed, omega).to(prior.device)
        return fit_to_images(networks, target, particles, self.init_steps, _INIT_LR / self.lr)


@dataclass(frozen=True)
class Siren(_CoordinateNetworkConfig):
    """A network of sine layers per particle.

    Attributes:
        omega: frequency of the sines, omega_0 of the paper.

    References:
        Sitzmann et al. 2020, arXiv 2006.09661.
    """

    omega: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.omega <= 0:
            raise ValueError(f"omega must be positive, not {self.omega}")

    def _frequencies(self, seed: int) -> Tensor:
        return torch.empty(0, 2)

    def _init_bounds(self, layer: int, fan_in: int) -> tuple[float, float]:
        """Section 3.2 and supplement 1.5: 1/n in the first layer, else sqrt(6/n)/omega_0.

        Biases are initialized as by PyTorch.
        """
        weight_bound = 1 / fan_in if layer == 0 else math.sqrt(6 / fan_in) / self.omega
        return weight_bound, 1 / math.sqrt(fan_in)

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        return self._build(prior, particles, seed, self.omega)


@dataclass(frozen=True)
class Fourier(_CoordinateNetworkConfig):
    """A ReLU network on random Fourier features per particle.

    All particles share the frequencies, so the input features are computed once.

    Attributes:
        lr: peak learning rate.
        num_frequencies: random frequencies, each a cosine and a sine.
        scale: standard deviation of the normal frequencies, in cycles per short side.

    References:
        Tancik et al. 2020, arXiv 2006.10739.
    """

    num_frequencies: int = 128
    scale: float = 2.0
    lr: float = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_frequencies < 1:
            raise ValueError(f"num_frequencies must be at least 1, not {self.num_frequencies}")
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, not {self.scale}")

    def _frequencies(self, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed + 77)
        return self.scale * torch.randn(self.num_frequencies, 2, generator=rng)

    def _init_bounds(self, layer: int, fan_in: int) -> tuple[float, float]:
        """He et al. 2015, for ReLU; the last layer has a tenth of it."""
        gain = 0.1 if layer == self.depth else 1.0
        return gain * math.sqrt(6 / fan_in), 0.0

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        return self._build(prior, particles, seed, 0.0)
