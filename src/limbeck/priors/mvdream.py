"""MVDream: Stable Diffusion that sees four views of an object at once and is told their cameras.

References:
    MVDream (Shi et al. 2023, arXiv 2308.16512).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.priors.mvdream_files import load_multi_view_unet
from limbeck.priors.scheduler_config import read_discrete_schedule
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.priors.view_attention import ViewFolding


def camera_labels(pose: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 16"]:
    """Return what the network is told of cameras: direction and rotation, not the distance.

    MVDream's world has z up and the front of objects at +x; ours has y up and the front at +z. So
    (x, y, z) becomes (z, x, y). Camera axes are the same.

    Args:
        pose: camera-to-world matrices of our world.

    Returns:
        Camera-to-world matrices of MVDream's world with the camera at distance 1, row by row.
    """
    turned = pose[:, [2, 0, 1, 3]]
    position = torch.nn.functional.normalize(turned[:, :3, 3], dim=1)
    position = torch.nn.functional.pad(position, (0, 1), value=1.0)
    return torch.cat([turned[:, :, :3], position[:, :, None]], 2).flatten(1)


class MVDream(StableDiffusion):
    """MVDream, a ``MultiViewPrior``; without cameras each row is an image, as in Stable Diffusion.

    Attributes:
        group_size: views in a group.
        folding: lets the self-attention see all views of a group.
    """

    group_size = 4
    takes_control = False

    def _load(self) -> None:
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        network = load_multi_view_unet(self.files, self.dtype)
        config = dict(network.config)
        self._require_config(
            config,
            out_channels=config["in_channels"],
            addition_embed_type=None,
            time_cond_proj_dim=None,
        )
        self.unet = self.network = self._place_network(network)
        self.folding = ViewFolding(self.unet)
        self._load_vae_and_control(config)

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        ticks = self.schedule.timestep_index(t)
        if condition.camera is None:
            with self._without_camera():
                return self._run_network(xt, ticks, condition.data)
        if len(xt) % self.group_size:
            raise ValueError(
                f"{len(xt)} rows are no whole groups of {self.group_size} views, which MVDream "
                "sees at once"
            )
        labels = camera_labels(condition.camera).to(xt.dtype)
        with self.folding.groups_of(self.group_size):
            return self._run_network(xt, ticks, condition.data, labels)

    @contextmanager
    def _without_camera(self) -> Iterator[None]:
        """Take the camera layers away: for a camera of zeros they would answer their biases."""
        network = cast(Any, self.unet)
        embedding = network.class_embedding
        network.class_embedding = None
        try:
            yield
        finally:
            network.class_embedding = embedding
