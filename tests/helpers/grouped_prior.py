"""A tiny pipeline that sees four views at once, and checks the rows of every call."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.view_attention import ViewFolding
from limbeck.priors.stable_diffusion import StableDiffusion

RING = 4


class GroupedDiffusion(StableDiffusion):
    """Stable Diffusion with folded self-attention.

    Attributes:
        needs_cameras: whether every call must be one of groups of views.
        calls_of_groups: calls that were.
    """

    group_size = RING
    needs_cameras = False
    calls_of_groups = 0

    def _load(self) -> None:
        super()._load()
        self.folding = ViewFolding(self.unet)

    def __call__(self, xt: Tensor, t: Tensor, *conditions: Condition) -> list[Prediction]:
        cameras = [c.camera for c in conditions if c.camera is not None]
        assert cameras or not self.needs_cameras, "a call without cameras"
        for camera in cameras:
            check_rings(camera)
            assert len(camera) == len(xt)
            assert torch.equal(camera, cameras[0])
            assert torch.equal(t, t[::RING].repeat_interleave(RING)), "times split a group"
        self.calls_of_groups += bool(cameras)
        return super().__call__(xt, t, *conditions)

    def _forward(self, xt: Tensor, t: Tensor, condition: Condition) -> Tensor:
        with self.folding.groups_of(1 if condition.camera is None else RING):
            return super()._forward(xt, t, condition)


def check_rings(pose: Tensor) -> None:
    """Check that each four rows that follow each other are one ring of cameras, in its order."""
    assert len(pose) % RING == 0, f"{len(pose)} rows split a group"
    eye = pose[:, :3, 3].double().view(-1, RING, 3)
    x, y, z = eye.unbind(2)
    assert (y - y[:, :1]).abs().max() < 1e-5, "heights differ in a group"
    # a quarter turn around y takes (x, z) to (z, -x)
    turned = torch.stack([z, -x], 2)
    horizontal = torch.stack([x, z], 2)
    assert (horizontal.roll(-1, 1) - turned).abs().max() < 1e-5, "a group is no ring in order"
