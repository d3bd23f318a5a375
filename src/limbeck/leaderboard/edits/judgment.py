"""Metrics of edited images of the world, each by pair: verdicts and distances to the truth."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.leaderboard.edits.pairs import CHANGED, EditPairs, correct_attributes
from limbeck.metrics.bounds import metric_bounds
from limbeck.metrics.estimate import Estimate, mean_estimate
from limbeck.metrics.intervals import SHARE
from limbeck.metrics.masked_error import masked_mse, masked_psnr
from limbeck.metrics.ssim import ssim
from limbeck.world.evaluator import Evaluator
from limbeck.world.scene import ATTRIBUTES

_COLUMN = {name: i for i, name in enumerate(ATTRIBUTES)}


def edit_objective(
    pairs: EditPairs, images: Float[Tensor, "n 3 h w"], evaluator: Evaluator
) -> float:
    """Mean probability that an edit is right in every attribute, by which settings are chosen.

    A share of right edits would take few values on few pairs.

    Args:
        pairs: the pairs.
        images: their edited images, equally many of each.
        evaluator: the world's evaluator.
    """
    with torch.no_grad():
        logits = evaluator(images)
    repeats = len(images) // len(pairs)
    labels = torch.from_numpy(pairs.after.labels()).repeat_interleave(repeats, 0)
    asymmetric = torch.from_numpy(pairs.after.asymmetric & pairs.before.asymmetric)
    log_prob = torch.zeros(len(images))
    for name, column in _COLUMN.items():
        own = logits[name].log_softmax(1).gather(1, labels[:, column, None])[:, 0]
        if name == "view":
            own = own.where(asymmetric.repeat_interleave(repeats), torch.zeros_like(own))
        log_prob += own
    return float(log_prob.exp().mean())


def judge_edits(
    pairs: EditPairs, images: Float[Tensor, "n 3 h w"], evaluator: Evaluator
) -> dict[str, Estimate]:
    """All metrics of edited images.

    Args:
        pairs: the pairs.
        images: their edited images in [0, 1], equally many of each pair, sorted by pair.
        evaluator: the world's evaluator.
    """
    repeats = len(images) // len(pairs)
    columns = _verdicts(pairs, images, evaluator) | _distances(pairs, images)
    by_pair = {
        name: column.reshape(len(pairs), repeats).mean(1) for name, column in columns.items()
    }
    out = {name: mean_estimate(own.tolist(), metric_bounds(name)) for name, own in by_pair.items()}
    changed = np.array(pairs.changed)
    for name in CHANGED:
        if (changed == name).any():
            out[name] = mean_estimate(by_pair["both"][changed == name].tolist(), SHARE)
    return out


def _verdicts(
    pairs: EditPairs, images: Float[Tensor, "n 3 h w"], evaluator: Evaluator
) -> dict[str, np.ndarray]:
    """Whether the new value is reached, everything else kept, and both, by image."""
    rows = np.repeat(np.arange(len(pairs)), len(images) // len(pairs))
    correct = correct_attributes(pairs.after[rows], images, evaluator)
    correct[:, _COLUMN["view"]] |= ~pairs.before.asymmetric[rows]
    column = np.array([_COLUMN[name] for name in pairs.changed])[rows]
    reached = correct[np.arange(len(rows)), column].copy()
    correct[np.arange(len(rows)), column] = True
    kept = correct.all(1)
    shares = {"reached": reached, "kept": kept, "both": reached & kept}
    return {name: share.astype(float) for name, share in shares.items()}


def _distances(pairs: EditPairs, images: Float[Tensor, "n 3 h w"]) -> dict[str, np.ndarray]:
    """Distances of each image to the true result, and outside the mask to its source."""
    repeats = len(images) // len(pairs)
    source, target, mask = (
        own.repeat_interleave(repeats, 0)
        for own in (pairs.source_images(), pairs.target_images(), pairs.masks())
    )
    outside = ~mask
    columns = {
        "distance": masked_mse(images, target).sqrt(),
        "mse_outside": masked_mse(images, source, outside),
        "psnr_outside": masked_psnr(images, source, outside),
        "ssim_outside": ssim(images, source, outside),
    }
    return {name: column.double().numpy() for name, column in columns.items()}
