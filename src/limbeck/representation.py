"""What is optimised: parameters that render to an image or a latent, and the frozen spec that builds them."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.prior import Prior


@dataclass(frozen=True)
class Render:
    """What a representation shows: images in [0, 1] or latents of the prior, ``[B, ...]``, as ``space`` says."""

    image: Float[Tensor, "b ..."]
    space: Literal["image", "latent"]


class Representation(nn.Module, abc.ABC):
    """Parameters of all particles. A particle that is not in ``view`` gets no gradient, and so does not move."""

    @abc.abstractmethod
    def render(self, view: Int[Tensor, "b"]) -> Render:
        """What the named particles show."""

    @abc.abstractmethod
    def groups(self) -> Iterable[dict]:
        """Optimiser groups, each with its peak rate as ``lr``."""

    def regularise(self, render: Render) -> dict[str, Float[Tensor, ""]]:
        """Terms to descend beside the method's, by name."""
        return {}

    def pictures(self, prior: Prior, view: Int[Tensor, "b"]) -> Float[Tensor, "b 3 h w"]:
        """The representation itself as images in [0, 1], never a detour through the autoencoder."""
        render = self.render(view)
        return render.image if render.space == "image" else prior.decode(render.image)


@dataclass(frozen=True)
class Spec(abc.ABC):
    """The options of a representation."""

    @abc.abstractmethod
    def build(self, prior: Prior, particles: int, seed: int) -> Representation:
        """Parameters for ``particles`` particles, a function of the seed only."""
