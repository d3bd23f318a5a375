"""What a camera says to a network: its pose, through a small network, is added to the embedding of time (ProlificDreamer)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from limbeck.diffusion.condition import Condition

if TYPE_CHECKING:
    from diffusers.models.embeddings import TimestepEmbedding

#: What networks call their embedding of time: U-Nets, flow transformers.
TIME_EMBEDDING_NAMES = ("time_embedding", "time_text_embed.timestep_embedder")
POSE_DIM = 16  #: of a pose, camera to world, row by row


def stack_poses(told: Sequence[Condition], rows: int) -> Float[Tensor, "r 16"] | None:
    """The poses of all rows, condition by condition, each of ``rows`` rows or of one; zeros for none; None where none has any."""
    if all(one.pose is None for one in told):
        return None
    none = torch.zeros(rows, POSE_DIM, device=told[0].data.device)
    return torch.cat(
        [none if one.pose is None else one.pose.flatten(1).expand(rows, -1) for one in told]
    )


def find_time_embedding(network: nn.Module) -> TimestepEmbedding:
    """The layer that embeds time; ValueError where the network has none of a known name."""
    from diffusers.models.embeddings import (
        TimestepEmbedding,  # a critic is imported without a model library
    )

    layers = dict(network.named_modules())
    found = [layers[name] for name in TIME_EMBEDDING_NAMES if name in layers]
    if not found or not isinstance(found[0], TimestepEmbedding):
        raise ValueError(
            f"{type(network).__name__} has no embedding of time named {' or '.join(TIME_EMBEDDING_NAMES)} to tell the camera to"
        )
    return found[0]


class PoseEmbedding(nn.Module):
    """Linear-SiLU-Linear of a pose, as wide as the embedding of time. The last layer starts at zero: at first nothing is added."""

    def __init__(self, width: int, rng: torch.Generator, device: torch.device):
        super().__init__()
        self.first = skip_init(
            nn.Linear, POSE_DIM, width, device=device
        )  # the global generator stays as it is
        self.last = skip_init(nn.Linear, width, width, device=device)
        with torch.no_grad():
            for weight in (self.first.weight, self.first.bias):  # as torch starts a linear layer
                weight.copy_((torch.rand(weight.shape, generator=rng) * 2 - 1) / POSE_DIM**0.5)
            self.last.weight.zero_()
            self.last.bias.zero_()

    def forward(self, pose: Float[Tensor, "r 16"]) -> Float[Tensor, "r w"]:
        out: Tensor = self.last(nn.functional.silu(self.first(pose)))
        return out
