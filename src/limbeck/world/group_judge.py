"""What the evaluator says of groups of views: whether they show one object, from where they should.

A row of four images has the right views if each shows the side that its camera sees, and shows one
object if all verdicts on it agree. That left and right are not exchanged is a verdict of its own,
since both are the side of an object.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.world.evaluator import REJECT, Evaluator
from limbeck.world.multi_view_data import GROUP_SIZE, around
from limbeck.world.scene import ASYMMETRIC, ATTRIBUTES, OBJECTS, VIEWS, Scenes, random_scenes

_SEED = 2025
_ELEVATION = math.radians(15)


def judged_groups(count: int) -> Scenes:
    """Return groups of the front, a side, the back and the other side of objects that differ there.

    Object, color and pattern are combinations that training never shows.

    Args:
        count: number of groups; objects take turns.

    Returns:
        ``4 * count`` scenes, the views of a group one after the other.
    """
    scenes = random_scenes(40 * count, np.random.default_rng(_SEED), unseen=True)
    by_object = [np.flatnonzero(scenes.object == OBJECTS.index(name)) for name in ASYMMETRIC]
    turns = [by_object[i % len(ASYMMETRIC)][i // len(ASYMMETRIC)] for i in range(count)]
    return around(scenes[np.array(turns)], np.zeros(count), np.full(count, _ELEVATION))


@torch.no_grad()
def judge_groups(
    images: Float[Tensor, "n 3 h w"], scenes: Scenes, evaluator: Evaluator
) -> dict[str, Float[Tensor, "g"]]:
    """Judge groups of views by an evaluator.

    Args:
        images: four views of each group, in [0, 1].
        scenes: what they should show, as of ``judged_groups``.
        evaluator: the evaluator of the world.

    Returns:
        By name, per group, the share of its images in which ``object``, ``view`` and ``facing`` are
        right (NaN for objects whose sides do not differ), of its ``front``, ``side`` and ``back``
        views that are right, and of backs that look like the front, ``back_as_front``; 1 or 0 for
        whether ``all_views`` are right and whether one attribute is the same in all views, as
        ``same_color``, the first three, ``same``, and all four, ``same_all``; and the share of
        ``rejected`` images.
    """
    verdicts = evaluator.judge(images).unflatten(0, (-1, GROUP_SIZE))
    truth = torch.from_numpy(scenes.labels()).unflatten(0, (-1, GROUP_SIZE))
    right = (verdicts == truth).float()
    view, true_view = verdicts[..., 4], truth[..., 4]
    same = (verdicts == verdicts[:, :1]).all(1)
    facing = evaluator.judge_facing(images) == torch.from_numpy(scenes.facing)
    out = {"object": right[..., 0].mean(1), "view": right[..., 4].mean(1)}
    for name in VIEWS[:3]:
        out[name] = _mean_where(right[..., 4], true_view == VIEWS.index(name))
    out["back_as_front"] = _mean_where(
        (view == VIEWS.index("front")).float(), true_view == VIEWS.index("back")
    )
    out["facing"] = _mean_where(
        facing.float().unflatten(0, (-1, GROUP_SIZE)),
        torch.from_numpy(scenes.shows_facing).unflatten(0, (-1, GROUP_SIZE)),
    )
    out["all_views"] = right[..., 4].all(1).float()
    for i, name in enumerate(list(ATTRIBUTES)[:4]):
        out[f"same_{name}"] = same[:, i].float()
    out["same"] = same[:, :3].all(1).float()
    out["same_all"] = same[:, :4].all(1).float()
    out["rejected"] = (verdicts[..., 0] == REJECT).float().mean(1)
    return out


def _mean_where(values: Float[Tensor, "g v"], where: Tensor) -> Float[Tensor, "g"]:
    """Return the mean of each row over the chosen columns; NaN without one."""
    return (values * where).sum(1) / where.sum(1)
