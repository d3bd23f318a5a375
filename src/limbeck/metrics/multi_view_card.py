"""Evaluation of a multi-view model of the world, beside the model it was trained from.

Groups of four views are sampled for the front, a side, the back and the other side of objects whose
views differ, and judged by the world's evaluator. Captions name everything, or the object alone:
then color, pattern and background are left to the model, and four images drawn apart choose four.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import FoldablePrior, MultiViewPrior, Prior
from limbeck.metrics.intervals import SHARE, mean_interval
from limbeck.metrics.model_card import sample_captions
from limbeck.system.files import write_text
from limbeck.world.denoiser import save_grid
from limbeck.world.group_judge import judge_groups, judged_groups
from limbeck.world.multi_view_data import GROUP_SIZE, scene_poses
from limbeck.world.pretrained import load_evaluator
from limbeck.world.scene import OBJECTS, VIEWS, Scenes, caption, full_captions

_SEED = 4321
_COLUMNS = (
    "object",
    "view",
    "back_as_front",
    "facing",
    "all_views",
    "same_color",
    "same_background",
    "same",
)

GroupShares = dict[str, tuple[float, float, float]]
"""Of each share in a table its mean over groups and the bounds of its 95 % interval."""


def group_shares(images: Float[Tensor, "n 3 h w"], scenes: Scenes) -> GroupShares:
    """Judge sampled groups of views; see ``judge_groups`` for the names.

    Args:
        images: four views of each group, in [0, 1].
        scenes: what they should show.
    """
    verdicts = judge_groups(images, scenes, load_evaluator())
    shares = {}
    for name, values in verdicts.items():
        known = values[~values.isnan()].tolist()
        low, high = mean_interval(known, SHARE) or SHARE
        shares[name] = (sum(known) / len(known), low, high)
    return shares


def group_texts(scenes: Scenes, full: bool, view_words: bool) -> list[str]:
    """Return captions of groups of views.

    Args:
        scenes: what they should show.
        full: whether to name color, pattern and background besides the object.
        view_words: whether to name the view.
    """
    if full:
        return full_captions(scenes, view_words)
    views = [VIEWS[i] if view_words else "" for i in scenes.view]
    return [caption(OBJECTS[o], view=v) for o, v in zip(scenes.object, views, strict=True)]


def sample_groups(
    prior: Prior, scenes: Scenes, captions: list[str], folded: bool, steps: int, guidance: float
) -> Float[Tensor, "n 3 h w"]:
    """Sample four views of each group.

    Args:
        prior: the model; one of several views takes the cameras.
        scenes: what to show.
        captions: the prompt of each view.
        folded: whether the self-attention of another model sees the four views together.
        steps: DDIM steps.
        guidance: guidance scale.
    """
    if isinstance(prior, MultiViewPrior):
        cameras = scene_poses(scenes)
        return sample_captions(prior, captions, steps, guidance, _SEED, cameras=cameras)
    together: AbstractContextManager[None] = nullcontext()
    if folded:
        assert isinstance(prior, FoldablePrior)
        together = prior.fold_views(GROUP_SIZE)
    with together:
        return sample_captions(prior, captions, steps, guidance, _SEED)


def write_multi_view_card(
    folder: Path, start: Path, count: int = 48, steps: int = 20, guidance: float = 5.0
) -> dict[str, GroupShares]:
    """Evaluate a pipeline on groups of held-out combinations, and the one it was trained from.

    Writes card.json and grid.png, up to 12 groups, into its folder.

    Args:
        folder: folder of the multi-view pipeline.
        start: folder of the pipeline that the training started from.
        count: number of groups.
        steps: DDIM steps.
        guidance: guidance scale.

    Returns:
        The shares by row of the card.
    """
    from limbeck.priors.mvdream import MVDream
    from limbeck.priors.stable_diffusion import StableDiffusion

    scenes, card = judged_groups(count), dict[str, GroupShares]()
    trained, plain = MVDream(str(folder)), StableDiffusion(str(start))
    for full, named in ((True, "everything named"), (False, "only the object named")):
        rows = (
            ("trained, cameras", trained, True, False),
            ("trained, cameras and view words", trained, True, True),
            ("untrained, folded, view words", plain, True, True),
            ("untrained, apart, view words", plain, False, True),
        )
        for label, prior, folded, words in rows:
            texts = group_texts(scenes, full, words)
            images = sample_groups(prior, scenes, texts, folded, steps, guidance)
            card[f"{named}: {label}"] = group_shares(images, scenes)
            if len(card) == 1:
                save_grid(images[: 12 * GROUP_SIZE], folder / "grid.png", 3 * GROUP_SIZE)
    content = {"groups": count, "steps": steps, "guidance": guidance, "shares": card}
    # last: a folder with a card is finished
    write_text(folder / "card.json", json.dumps(content, indent=1))
    return card


def format_multi_view_card(card: dict[str, GroupShares]) -> str:
    """Return a table of the main shares in percent, each with the half width of its interval."""
    width = max(map(len, card))
    lines = [" " * width + "".join(f"{name:>16}" for name in _COLUMNS)]
    for label, shares in card.items():
        cells = [_percent(*shares[name]) for name in _COLUMNS]
        lines.append(f"{label:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def _percent(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:.0f} ({100 * low:.0f}-{100 * high:.0f})"
