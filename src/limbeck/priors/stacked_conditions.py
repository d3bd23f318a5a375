"""Conditions of one network call as one condition with the rows of all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.diffusion.condition import Condition


def stack_conditions(conditions: Sequence[Condition], b: int, dtype: torch.dtype) -> Condition:
    """Concatenate the conditions of one x_t.

    Args:
        conditions: conditions of ``b`` rows each, or of one row that stands for all.
        b: rows of x_t.
        dtype: precision of the network.
    """
    data = torch.cat([c.data.expand(b, -1, -1) for c in conditions]).to(dtype)
    pooled = [c.pooled.expand(b, -1) for c in conditions if c.pooled is not None]
    masks = [c.mask.expand(b, -1) for c in conditions if c.mask is not None]
    # the rows of all conditions have the same x_t, so the same cameras and control images
    cameras = [c.camera.expand(b, -1, -1) for c in conditions if c.camera is not None]
    prompts = [
        c.image_prompt.expand(b, *c.image_prompt.shape[1:])
        for c in conditions
        if c.image_prompt is not None
    ]
    controls = [c.control.expand(b, -1, -1, -1) for c in conditions if c.control is not None]
    return Condition(
        data,
        pooled=torch.cat(pooled).to(dtype) if pooled else None,
        camera=cameras[0].repeat(len(conditions), 1, 1) if cameras else None,
        mask=torch.cat(masks) if masks else None,
        image=_stack_images(conditions, b, dtype),
        known=_stack_known(conditions, b),
        control=controls[0].repeat(len(conditions), 1, 1, 1) if controls else None,
        image_prompt=torch.cat(prompts).to(dtype) if prompts else None,
    )


def _stack_images(
    conditions: Sequence[Condition], b: int, dtype: torch.dtype
) -> Float[Tensor, "r c y x"] | None:
    """Image latents of all rows, zeros for a condition without; None if no condition has any."""
    shape = next((c.image.shape[1:] for c in conditions if c.image is not None), None)
    if shape is None:
        return None
    zeros = conditions[0].data.new_zeros(1, *shape)
    images = [zeros if c.image is None else c.image for c in conditions]
    return torch.cat([image.expand(b, *shape).to(dtype) for image in images])


def _stack_known(conditions: Sequence[Condition], b: int) -> Bool[Tensor, "r"] | None:
    """Whether the view of each row is known, in no row of a condition without."""
    first = next((c.known for c in conditions if c.known is not None), None)
    if first is None:
        return None
    none = torch.zeros_like(first[:1])
    return torch.cat([(none if c.known is None else c.known).expand(b) for c in conditions])
