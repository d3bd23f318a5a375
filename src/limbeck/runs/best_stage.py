"""Which stage of a preset has the best result, from the held-out cameras."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.graphics.export.splat_surface import splats_to_surface
from limbeck.graphics.geometry.assets import Splats, Surface
from limbeck.graphics.geometry.shape_facts import ShapeFacts, shape_facts
from limbeck.metrics.heldout_views import HeldOutImages, held_out_cameras, render_held_out
from limbeck.metrics.intervals import SHARE, Interval, mean_interval
from limbeck.metrics.true_color import MIN_ALPHA, object_colors, true_color
from limbeck.metrics.true_object_colors import true_object_colors
from limbeck.metrics.view_consistency import has_distinct_views, view_labels
from limbeck.priors.loading import load
from limbeck.representations.base import Representation
from limbeck.runs.reopen import BEST_STAGE, read_experiment
from limbeck.system.files import one_line, write_text
from limbeck.training.experiment import Experiment
from limbeck.training.warm_start import load_representation
from limbeck.world.pretrained import load_evaluator
from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import ATTRIBUTES

_MIN_CONTACT = 0.01  #: share of a surface at the sides of its box that counts as grown into it
_MIN_OVERLAP = 0.8  #: overlap of silhouettes from which a shape counts as kept
_MIN_STAINED = 0.05  #: share of the pixels from which new colors count as stains
_OBJECT, _VIEW = (list(ATTRIBUTES).index(name) for name in ("object", "view"))


@dataclass(frozen=True)
class JudgedViews:
    """A stage, seen by all its particles through the held-out cameras.

    Attributes:
        folder: run folder.
        right: which views show what the prompt asks for, by the world's evaluator; None: it cannot
            judge them.
        silhouettes: where the views are at least half opaque; None: there is no opacity.
        shapes: facts of the surface of each particle; of splats and empty ones there are none.
        shares: what is judged of each view besides: whether it shows the right ``object``, whether
            it shows the side that its camera is at, ``view``, and the share of the pixels of the
            object in colors of true renders, ``true_color``, NaN without such pixels. A name is
            missing where that cannot be judged.
    """

    folder: Path
    right: Bool[Tensor, "n"] | None
    silhouettes: Bool[Tensor, "n h w"] | None
    shapes: tuple[ShapeFacts, ...]
    shares: Mapping[str, Float[Tensor, "n"]] = field(default_factory=dict)


def choose_stage(folders: Sequence[Path], device: str = "auto") -> list[str]:
    """Say on stderr which finished stage is the best and what later ones have spoiled; keep it.

    Its name is written beside the stages, where ``reopen.best_stage`` finds it for exports.

    Args:
        folders: run folders of the stages, in order, all in one folder.
        device: as for ``limbeck.load``.

    Returns:
        What was said; empty for a single stage and for runs in 2D.
    """
    experiments = [read_experiment(folder) for folder in folders]
    if len(folders) < 2 or experiments[-1].camera_sampler.eval_cameras(1) is None:
        return []
    priors: dict[str, Prior] = {}
    try:
        stages = []
        for folder, e in zip(folders, experiments, strict=True):
            key = repr((e.model, e.precision, e.runtime))
            if key not in priors:
                priors[key] = load(e.model, device, e.precision, e.runtime)
            stages.append(_judge(folder, e, priors[key]))
    except (ValueError, OSError) as error:  # a recipe that has finished is not lost by this
        messages = [f"stages could not be compared: {one_line(error)}"]
    else:
        best = best_of(stages)
        messages = [_choice_message(best, stages[-1]), *_changes(stages)]
        content = {"best": best.folder.name, "messages": messages}
        write_text(folders[-1].parent / BEST_STAGE, json.dumps(content, indent=1) + "\n")
    for message in messages:
        print(message, file=sys.stderr)
    return messages


def best_of(stages: Sequence[JudgedViews]) -> JudgedViews:
    """The last stage, unless an earlier one is better.

    By the evaluator: if the share of right views is higher by an interval of 95 % over the views,
    paired by camera, that excludes zero. Without it, or between stages of different numbers of
    particles: if a later stage has lost its surface, or has
    grown into the sides of its box and the earlier one has not.

    Args:
        stages: the stages, in order.
    """
    best = stages[-1]
    for earlier in reversed(stages[:-1]):
        if _is_paired(earlier.right, best.right):
            interval = _gain(best, earlier)[1]
            is_better = interval is not None and interval[0] > 0
        else:
            has_lost = len(best.shapes) < len(earlier.shapes)
            is_better = has_lost or (_touches(best) and not _touches(earlier))
        best = earlier if is_better else best
    return best


def _judge(folder: Path, e: Experiment, prior: Prior) -> JudgedViews:
    """Render all particles of a stage through the held-out cameras and judge them."""
    camera = e.camera_sampler.eval_cameras(1)
    assert camera is not None
    cameras = held_out_cameras(camera.distance[0].item(), math.degrees(camera.fov[0].item()))
    representation, total = load_representation(folder, prior)
    held = [render_held_out(representation, prior, i, cameras) for i in range(total)]
    prompts = [e.prompts[i // e.particles] for i in range(total)]
    right, shares = None, dict[str, Tensor]()
    if prior.image_size == (64, 64) and all(judgeable_attributes(p) for p in e.prompts):
        right, shares = _evaluated(held, prompts, view_labels(cameras).cpu())
        shares |= _true_color_shares(held, prompts)
    alphas = [own.alpha for own in held if own.alpha is not None]
    silhouettes = torch.cat(alphas)[:, 0] >= 0.5 if alphas else None
    return JudgedViews(folder, right, silhouettes, _shapes(representation, total), shares)


def _evaluated(
    held: Sequence[HeldOutImages], prompts: Sequence[str], views: Int[Tensor, "n"]
) -> tuple[Bool[Tensor, "n"] | None, dict[str, Tensor]]:
    """Which views are right, and ``object`` and ``view`` of each, by the world's evaluator.

    Nothing where the evaluator's weights are missing.
    """
    try:
        evaluator: Any = load_evaluator()
    except FileNotFoundError:
        return None, {}
    verdicts = [evaluator.judge(own.images).cpu() for own in held]
    right = torch.cat(list(map(_right_views, verdicts, prompts)))
    rows = [_view_shares(*row, views) for row in zip(verdicts, prompts, strict=True)]
    names = [name for name in ("object", "view") if all(name in row for row in rows)]
    return right, {name: torch.cat([row[name] for row in rows]) for name in names}


def _true_color_shares(held: Sequence[HeldOutImages], prompts: Sequence[str]) -> dict[str, Tensor]:
    """``true_color`` of each view; nothing where it cannot be judged."""
    if any("color" not in judgeable_attributes(prompt) for prompt in prompts):
        return {}  # true renders then have nearly all colors
    # numba renders the world
    if not find_spec("numba") or any(own.alpha is None for own in held):
        return {}
    palettes = {p: true_object_colors(p).round().unique(dim=0) for p in dict.fromkeys(prompts)}
    rows = [_true_colors(own, palettes[p]) for own, p in zip(held, prompts, strict=True)]
    return {"true_color": torch.cat(rows)}


def _right_views(verdicts: Tensor, prompt: str) -> Bool[Tensor, "n"]:
    """Which views show all that the prompt names, but for the view it may name."""
    named = judgeable_attributes(prompt)
    columns = [i for i, name in enumerate(ATTRIBUTES) if name in named and name != "view"]
    wanted = torch.tensor([named[list(ATTRIBUTES)[i]] for i in columns])
    return (verdicts[:, columns] == wanted).all(1)


def _view_shares(verdicts: Tensor, prompt: str, views: Tensor) -> dict[str, Tensor]:
    """Per view, 1 if the object is right, and if its side is, where its sides differ; else 0."""
    named = judgeable_attributes(prompt)["object"]
    shares = {"object": (verdicts[:, _OBJECT] == named).float()}
    if has_distinct_views(named):
        shares["view"] = (verdicts[:, _VIEW] == views).float()
    return shares


def _true_colors(held: HeldOutImages, palette: Float[Tensor, "m 3"]) -> Float[Tensor, "n"]:
    """Share of the opaque pixels of each view in colors of true renders; NaN without any."""
    assert held.alpha is not None
    shares = []
    for image, alpha in zip(held.images, held.alpha, strict=True):
        colors = object_colors(image[None], alpha >= MIN_ALPHA)
        shares.append(true_color(colors, palette) if len(colors) else math.nan)
    return torch.tensor(shares)


def _shapes(representation: Representation, total: int) -> tuple[ShapeFacts, ...]:
    facts = []
    for particle in range(total):
        try:
            asset = representation.asset(particle)
            if isinstance(asset, Splats):
                asset = splats_to_surface(asset)
        except (ValueError, NotImplementedError):  # empty, or a field of latents
            continue
        if isinstance(asset, Surface) and len(asset.faces):
            facts.append(shape_facts(asset, representation.box_bound))
    return tuple(facts)


def _is_paired(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two stages have a value of the same views; they may differ in particles or size."""
    return a is not None and b is not None and a.shape == b.shape


def _gain(a: JudgedViews, b: JudgedViews) -> tuple[float, Interval | None]:
    """How much more views of ``b`` are right than of ``a``, with its interval."""
    assert a.right is not None and b.right is not None
    return _difference(a.right.float(), b.right.float())


def _difference(a: Float[Tensor, "n"], b: Float[Tensor, "n"]) -> tuple[float, Interval | None]:
    """Mean of b - a with its interval over the views in which both are known; 0 without any."""
    known = ~(a.isnan() | b.isnan())
    difference = (b - a)[known]
    if not len(difference):
        return 0.0, None
    return difference.mean().item(), mean_interval(difference.tolist(), SHARE, is_difference=True)


def _touches(stage: JudgedViews) -> bool:
    return any(shape.box_contact >= _MIN_CONTACT for shape in stage.shapes)


def _choice_message(best: JudgedViews, last: JudgedViews) -> str:
    """Which stage is best and why, in one line."""
    name, where = best.folder.name, f"limbeck export {best.folder.parent} takes it"
    if best is last:
        share = f", {100 * _share(best):.0f} % of its views right" if best.right is not None else ""
        return f"best stage: {name}, the last{share}; no earlier one is clearly better"
    if _is_paired(best.right, last.right):
        gain, interval = _gain(last, best)
        reason = (
            f"{100 * _share(best):.0f} % of its views are right, and of {last.folder.name} "
            f"{100 * _share(last):.0f} %, {100 * gain:.0f} points less{_within(interval)}"
        )
    else:
        reason = f"the surface of {last.folder.name} is lost or has grown into its box"
    return f"best stage: {name}; {reason}; {where}"


def _within(interval: Interval | None) -> str:
    return f" (95 % {100 * interval[0]:.0f} to {100 * interval[1]:.0f})" if interval else ""


def _share(stage: JudgedViews) -> float:
    return stage.right.float().mean().item() if stage.right is not None else 0.0


def _changes(stages: Sequence[JudgedViews]) -> list[str]:
    """What each stage has changed beside the one before, in one line a stage.

    First the differences of what the evaluator says of object and view, whatever they are, then
    what has been spoiled in shape and colors.
    """
    messages = []
    for before, after in pairwise(stages):
        found = []
        for name in ("object", "view"):
            if _is_paired(before.shares.get(name), after.shares.get(name)):
                gain, interval = _difference(before.shares[name], after.shares[name])
                found.append(f"{name} {100 * gain:+.0f} points{_within(interval)}")
        found += _stains(before, after)
        if _is_paired(before.silhouettes, after.silhouettes):
            overlap = _overlap(before, after)
            if overlap < _MIN_OVERLAP:
                found.append(f"silhouettes overlap by {100 * overlap:.0f} % only")
        if _touches(after) and not _touches(before):
            share = max(shape.box_contact for shape in after.shapes)
            found.append(f"{100 * share:.0f} % of the surface has grown into the sides of its box")
        if before.shapes and not after.shapes:
            found.append("the surface is lost")
        if len(before.shapes) == len(after.shapes):
            for name in ("pieces", "handles"):
                a, b = ([getattr(s, name) for s in stage.shapes] for stage in (before, after))
                if a != b and None not in (*a, *b):
                    found.append(f"{_numbers(b)} {name} instead of {_numbers(a)}")
        if found:
            messages.append(f"{after.folder.name} beside {before.folder.name}: {'; '.join(found)}")
    return messages


def _stains(before: JudgedViews, after: JudgedViews) -> list[str]:
    """Says that more pixels have colors that true renders lack; empty if none have.

    Enough of them must, and an interval over the views must exclude that it is chance.
    """
    if not _is_paired(before.shares.get("true_color"), after.shares.get("true_color")):
        return []
    stained, known = (1 - stage.shares["true_color"] for stage in (after, before))
    more, interval = _difference(known, stained)
    if more < _MIN_STAINED or interval is None or interval[0] <= 0:
        return []
    share = 100 * stained.nanmean().item()
    return [f"{share:.0f} % of its pixels are stained, {100 * more:+.0f} points{_within(interval)}"]


def _overlap(before: JudgedViews, after: JudgedViews) -> float:
    """Intersection over union of silhouettes, mean over the views."""
    a, b = before.silhouettes, after.silhouettes
    assert a is not None and b is not None
    both, either = (a & b).sum((1, 2)), (a | b).sum((1, 2))
    return (both / either.clamp_min(1)).mean().item()


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
