"""Camera conditioning of a network: an embedding of the pose is added to its time embedding.

References:
    ProlificDreamer (Wang et al. 2023, arXiv 2305.16213).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from limbeck.diffusion.camera_input import POSE_DIM
from limbeck.diffusion.condition import Condition

if TYPE_CHECKING:
    from diffusers.models.embeddings import TimestepEmbedding

#: Names of the time embedding, in U-Nets and in transformers.
TIME_EMBEDDING_NAMES = (
    "time_embedding",  # U-Nets
    "time_text_embed.timestep_embedder",  # SD3, Flux.1, Qwen-Image
    "time_guidance_embed.timestep_embedder",  # Flux.2
    "time_embed.emb.timestep_embedder",  # SANA
    "adaln_single.emb.timestep_embedder",  # PixArt
    "time_caption_embed.timestep_embedder",  # Lumina 2
)


def stack_poses(conditions: Sequence[Condition], rows: int) -> Float[Tensor, "r 16"] | None:
    """Concatenate the flattened poses of conditions.

    Args:
        conditions: conditions of ``rows`` rows each, or of one row that stands for all. Without a
            pose its rows are zeros.
        rows: rows per condition.

    Returns:
        Poses of all rows; None if no condition has a pose.
    """
    if all(condition.pose is None for condition in conditions):
        return None
    zeros = torch.zeros(rows, POSE_DIM, device=conditions[0].data.device)
    return torch.cat(
        [
            zeros if condition.pose is None else condition.pose.flatten(1).expand(rows, -1)
            for condition in conditions
        ]
    )


def find_time_embedding(network: nn.Module) -> TimestepEmbedding:
    """Return the layer of a network that embeds the time.

    Raises:
        ValueError: if it has none of a known name.
    """
    # critics are imported without diffusers
    from diffusers.models.embeddings import TimestepEmbedding

    layers = dict(network.named_modules())
    found = [layers[name] for name in TIME_EMBEDDING_NAMES if name in layers]
    if not found or not isinstance(found[0], TimestepEmbedding):
        raise ValueError(
            f"{type(network).__name__} has no time embedding named "
            f"{' or '.join(TIME_EMBEDDING_NAMES)}, so it cannot be conditioned on the camera"
        )
    return found[0]


class PoseEmbedding(nn.Module):
    """Linear-SiLU-Linear of a pose, as wide as the time embedding.

    The last layer is initialized with zero, so at first nothing is added to the time embedding.

    Args:
        width: features of the time embedding.
        rng: generator of the first layer's weights; the global generator is not used.
        device: device of the weights.
    """

    def __init__(self, width: int, rng: torch.Generator, device: torch.device):
        super().__init__()
        # skip_init: the global generator keeps its state
        self.first = skip_init(nn.Linear, POSE_DIM, width, device=device)
        self.last = skip_init(nn.Linear, width, width, device=device)
        with torch.no_grad():
            for weight in (self.first.weight, self.first.bias):  # as nn.Linear initializes
                weight.copy_((torch.rand(weight.shape, generator=rng) * 2 - 1) / POSE_DIM**0.5)
            self.last.weight.zero_()
            self.last.bias.zero_()

    def forward(self, pose: Float[Tensor, "r 16"]) -> Float[Tensor, "r w"]:
        out: Tensor = self.last(nn.functional.silu(self.first(pose)))
        return out
