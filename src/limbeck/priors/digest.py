"""A digest of a prior that is loaded, by which a run knows it again."""

from __future__ import annotations

import hashlib
from dataclasses import is_dataclass

import torch

from limbeck.config.discovery import name_of
from limbeck.diffusion.prior import Prior
from limbeck.priors.diffusers_base import DiffusersPrior


def prior_digest(prior: Prior) -> str:
    """Eight hexadecimal digits that differ where two priors differ.

    Compared are the class, the shape and the schedule, and of a published model its options and
    precision, of others the tensors that are attributes. Weights of networks are not read.

    Args:
        prior: the prior.
    """
    schedule = prior.schedule if is_dataclass(prior.schedule) else name_of(type(prior.schedule))
    digest = hashlib.sha256(repr((name_of(type(prior)), prior.shape, schedule)).encode())
    if isinstance(prior, DiffusersPrior):
        digest.update(repr((prior.model, prior.dtype)).encode())
        return digest.hexdigest()[:8]
    for name, value in sorted(getattr(prior, "__dict__", {}).items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            plain = value.detach().cpu().flatten().contiguous()
            digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]
