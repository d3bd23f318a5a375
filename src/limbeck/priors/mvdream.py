"""MVDream: Stable Diffusion that sees four views of an object at once and takes their cameras.

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

from limbeck.diffusion.camera_input import camera_labels
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.tensors import expand
from limbeck.diffusion.view_attention import ViewFolding
from limbeck.priors.mvdream_files import load_multi_view_unet, trained_on_known_views
from limbeck.priors.scheduler_config import read_discrete_schedule
from limbeck.priors.stable_diffusion import StableDiffusion


class MVDream(StableDiffusion):
    """MVDream, a ``MultiViewPrior``; without cameras each row is an image, as in Stable Diffusion.

    Attributes:
        group_size: views in a group.
        takes_known_views: whether it was trained on groups of which a view is given clean.
        folding: lets the self-attention see all views of a group.
    """

    group_size = 4
    takes_adapters = False

    def _load(self) -> None:
        self.prediction_type, self.schedule = read_discrete_schedule(self.files)
        network = self._load_network()
        config = dict(network.config)
        self._require_config(
            config,
            out_channels=config["in_channels"],
            addition_embed_type=None,
            time_cond_proj_dim=None,
        )
        self.unet = self.network = self._place_network(network)
        self.folding = ViewFolding(self.unet)
        self.takes_known_views = trained_on_known_views(self.files)
        self._load_other_parts(config)

    def _load_network(self) -> Any:
        """The U-Net as a frozen module."""
        return load_multi_view_unet(self.files, self.dtype)

    def __call__(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``. Of a view that is known, x0 is predicted to be the view."""
        predictions = super().__call__(xt, t, *conditions)
        return [
            self._with_known_views(prediction, xt, t, condition)
            for prediction, condition in zip(predictions, conditions, strict=True)
        ]

    def _with_known_views(
        self,
        prediction: Prediction,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, "b"],
        condition: Condition,
    ) -> Prediction:
        if condition.known is None or condition.image is None:
            return prediction
        known = condition.known[:, None, None, None]
        alpha, sigma = (expand(f(t), xt) for f in (self.schedule.alpha, self.schedule.sigma))
        eps = (xt - alpha * condition.image) / sigma
        return Prediction(
            torch.where(known, condition.image, prediction.x0),
            torch.where(known, eps, prediction.eps),
        )

    def _forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        ticks = self.schedule.timestep_index(t)
        if condition.camera is None:
            with self._without_camera():
                return self._run_network(xt, ticks, condition.data)
        self._check_groups(len(xt))
        labels = camera_labels(condition.camera).to(xt.dtype)
        if condition.known is not None and condition.image is not None:
            xt = torch.where(condition.known[:, None, None, None], condition.image, xt)
            ticks = ticks.masked_fill(condition.known, 0)
        with self.folding.groups_of(self.group_size):
            return self._run_network(xt, ticks, condition.data, labels)

    def _check_groups(self, rows: int) -> None:
        if rows % self.group_size:
            raise ValueError(
                f"{rows} rows are no whole groups of {self.group_size} views, which MVDream sees "
                "at once"
            )

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
