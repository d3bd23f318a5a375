"""No discriminator."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.diffusion.prior import Prior
from limbeck.distillation.discriminators.base import DiscriminatorConfig
from limbeck.distillation.inputs import SetupContext


@dataclass(frozen=True)
class NoDiscriminator(DiscriminatorConfig):
    """No discriminator: the direction has no GAN term."""

    name = "none"

    def build(self, prior: Prior, setup: SetupContext) -> None:
        return None
