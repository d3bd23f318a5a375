"""MVDream: Stable Diffusion that sees four views of an object at once and takes their cameras.

References:
    MVDream (Shi et al. 2023, arXiv 2308.16512).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.camera_input import camera_labels
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.view_attention import ViewFolding
from limbeck.priors.mvdream_files import load_multi_view_unet
from limbeck.priors.scheduler_config import read_discrete_schedule
from limbeck.priors.stable_diffusion import StableDiffusion


class MVDream(StableDiffusion):
    """MVDream, a ``MultiViewPrior``; without cameras each row is an image, as in Stable Diffusion.

    Attributes:
        group_size: views in a group.
        folding: lets the self-attention see all views of a group.
    """

    group_size = 4
    takes_adapters = False

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
        self._load_other_parts(config)

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
