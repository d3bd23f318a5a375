"""Coordinate networks: an image as a small network from a place to a colour. SIREN, and a network on Fourier features.

@inproceedings{sitzmann2020siren,
  title={Implicit Neural Representations with Periodic Activation Functions},
  author={Sitzmann, Vincent and Martel, Julien and Bergman, Alexander and Lindell, David and Wetzstein, Gordon},
  booktitle={NeurIPS}, year={2020}}
@inproceedings{tancik2020fourier,
  title={Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains},
  author={Tancik, Matthew and Srinivasan, Pratul and Mildenhall, Ben and Fridovich-Keil, Sara and Raghavan, Nithin and Singhal,
    Utkarsh and Ramamoorthi, Ravi and Barron, Jonathan and Ng, Ren}, booktitle={NeurIPS}, year={2020}}
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

from limbeck.diffusion.prior import Prior
from limbeck.graphics.cameras.request import RenderRequest
from limbeck.representations.base import ParticleParameters, Render, Representation, RepresentationConfig, fit_to_images, latent_shape

Space = Literal["image", "latent"]
FIT_RATE = 5e-3  #: of a fit to images, whose gradient has no noise


def pixel_coordinates(height: int, width: int) -> Float[Tensor, "p 2"]:
    """Centres of the pixels, x then y; the short side spans [-1, 1]."""
    short = min(height, width)
    y, x = ((2 * torch.arange(side) + 1 - side) / short for side in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).reshape(
        -1, 2
    )


class CoordinateNetworks(ParticleParameters):
    """One network per particle, all evaluated in one batched matrix product a layer.

    ``omega`` > 0: sine layers, sin(omega (W h + b)); else ReLU. ``features``: frequencies of the input, none for the places
    themselves. Images leave through a sigmoid, latents as they are, for a bound such as tanh's cuts them off.
    """

    frequencies: Tensor
    inputs: Tensor

    def __init__(
        self,
        start: dict[str, Tensor],
        rate: float,
        size: tuple[int, int],
        space: Space,
        omega: float,
        features: Tensor,
    ):
        super().__init__(start, dict.fromkeys(start, rate))
        self.size, self.space, self.omega = size, space, omega
        self.layers = len(start) // 2
        self.register_buffer("frequencies", features, persistent=False)
        self.register_buffer("inputs", self._seen(pixel_coordinates(*size)), persistent=False)

    def _seen(self, place: Float[Tensor, "p 2"]) -> Float[Tensor, "p f"]:
        """What the first layer sees of a place v: v, or (cos 2 pi B v, sin 2 pi B v) with v in units of the short side."""
        if not len(self.frequencies):
            return place
        turns = math.pi * place @ self.frequencies.T
        return torch.cat([turns.cos(), turns.sin()], -1)

    def render_at(self, view: Int[Tensor, "b"], height: int, width: int) -> Float[Tensor, "b c h w"]:
        """What the particles show at any resolution."""
        own = (height, width) == self.size
        h = (self.inputs if own else self._seen(pixel_coordinates(height, width).to(self.inputs)))[None].expand(
            len(view), -1, -1
        )
        for layer in range(self.layers):
            h = torch.baddbmm(
                self.gather(f"bias{layer}", view)[:, None],
                h,
                self.gather(f"weight{layer}", view).transpose(1, 2),
            )
            if layer + 1 < self.layers:
                h = (self.omega * h).sin() if self.omega else h.relu()
        out = h.transpose(1, 2).reshape(len(view), -1, height, width)
        return out.sigmoid() if self.space == "image" else out

    def render(self, view: RenderRequest) -> Render:
        return Render(self.render_at(view.particle, *self.size), self.space)


@dataclass(frozen=True)
class _Coordinates(RepresentationConfig):
    """What both networks choose."""

    space: Space = "image"
    width: int = 128
    depth: int = 3
    init_steps: int = 300
    lr: float = 1e-3

    def __post_init__(self) -> None:
        if min(self.width, self.depth) < 1 or self.lr <= 0 or self.init_steps < 0:
            raise ValueError(
                f"width and depth must be at least 1, rate positive, fit not negative: {self}"
            )

    @abc.abstractmethod
    def _inputs(self, seed: int) -> Float[Tensor, "m 2"]:
        """Frequencies of the input, none for plain places."""

    @abc.abstractmethod
    def _bounds(self, layer: int, fan: int) -> tuple[float, float]:
        """Bounds of the uniform draws of a layer's weights and biases."""

    def _made(
        self, particles: int, size: tuple[int, int], channels: int, seed: int, omega: float
    ) -> CoordinateNetworks:
        rng, features = torch.Generator().manual_seed(seed), self._inputs(seed)
        fans = [2 * len(features) or 2, *[self.width] * self.depth, channels]
        start = {}
        for layer, (fan, out) in enumerate(pairwise(fans)):
            weight, bias = self._bounds(layer, fan)
            start[f"weight{layer}"] = weight * (
                2 * torch.rand(particles, out, fan, generator=rng) - 1
            )
            start[f"bias{layer}"] = bias * (2 * torch.rand(particles, out, generator=rng) - 1)
        return CoordinateNetworks(start, self.lr, size, self.space, omega, features)

    def _build(self, prior: Prior, particles: int, seed: int, omega: float) -> Representation:
        canvas, goal = self.canvas_size(prior), self.distinct_initial_images(prior, particles)
        shape = (3, *canvas) if self.space == "image" else latent_shape(prior, canvas)
        if len(shape) != 3:
            raise ValueError(
                f"a coordinate network needs a model of pictures, not one of {shape[0]} numbers; use latents"
            )
        if goal is not None and self.space == "latent":
            with torch.no_grad():
                goal = prior.encode(goal.to(prior.device))
        made = self._made(
            particles if goal is None else len(goal), shape[1:], shape[0], seed, omega
        )
        return fit_to_images(made.to(prior.device), goal, particles, self.init_steps, FIT_RATE / self.lr)


@dataclass(frozen=True)
class Siren(_Coordinates):
    """A network of sine layers per particle (Sitzmann et al. 2020, arXiv 2006.09661).

    space: image, or latent to answer latents of the model. width: units of a layer. depth: sine layers. omega: frequency of the
    sines, omega_0 of the paper. fit: steps that fit the start to ``images``. rate: peak learning rate.
    """

    omega: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.omega <= 0:
            raise ValueError(f"omega must be positive, not {self.omega}")

    def _inputs(self, seed: int) -> Tensor:
        return torch.empty(0, 2)

    def _bounds(self, layer: int, fan: int) -> tuple[float, float]:
        """Section 3.2 and supplement 1.5: 1/n in the first layer, sqrt(6/n)/omega_0 in all others; biases as PyTorch's."""
        return 1 / fan if layer == 0 else math.sqrt(6 / fan) / self.omega, 1 / math.sqrt(fan)

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        return self._build(prior, particles, seed, self.omega)


@dataclass(frozen=True)
class Fourier(_Coordinates):
    """A ReLU network on random Fourier features per particle (Tancik et al. 2020, arXiv 2006.10739).

    All particles share the frequencies, so that what the first layer sees is computed once. space: image, or latent to answer
    latents of the model. width: units of a layer. depth: hidden layers. features: frequencies, each a cosine and a sine. scale:
    deviation of the normal frequencies, in turns per short side. fit: steps that fit the start to ``images``. rate: peak
    learning rate.
    """

    num_frequencies: int = 128
    scale: float = 2.0
    lr: float = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_frequencies < 1 or self.scale <= 0:
            raise ValueError(
                f"features must be at least 1 and scale positive, not {self.num_frequencies}, {self.scale}"
            )

    def _inputs(self, seed: int) -> Tensor:
        return self.scale * torch.randn(
            self.num_frequencies, 2, generator=torch.Generator().manual_seed(seed + 77)
        )

    def _bounds(self, layer: int, fan: int) -> tuple[float, float]:
        """He et al. 2015, for ReLU."""
        last = layer == self.depth
        return (0.1 if last else 1.0) * math.sqrt(6 / fan), 0.0

    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        return self._build(prior, particles, seed, 0.0)
