"""R-Precision: the share of images that are matched to their own prompt among others.

References:
    Park et al. 2021; Dream Fields, Jain et al. 2022; DreamFusion, Poole et al. 2022, Table 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.world.prompt_parser import judgeable_attributes
from limbeck.world.scene import BACKGROUNDS, COLORS, OBJECTS, PATTERNS, caption


def r_precision(scores: Float[Tensor, "n t"], own: int) -> float:
    """Share of images whose own text scores strictly higher than every other.

    Range [0, 1]; chance is 1 / texts, so compare only the same set of texts. Sample size: a mean
    over prompts; the views and seeds of one prompt are alike. A result that was optimized by CLIP
    is not to be judged by the same CLIP.

    Args:
        scores: score of every image for every text, on any scale.
        own: index of the own text.

    Raises:
        ValueError: with fewer than two texts.

    References:
        Dream Fields, Jain et al. 2022, arXiv 2112.01455; DreamFusion, Poole et al. 2022, arXiv
        2209.14988, appendix A.3.
    """
    if scores.shape[1] < 2:
        raise ValueError("R-Precision needs other texts: there is only the prompt itself")
    return ranks_first(scores, torch.full((len(scores),), own)).float().mean().item()


def ranks_first(scores: Float[Tensor, "n t"], own: Int[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Whether the own text of each image scores strictly higher than every other.

    Args:
        scores: score of every image for every text, on any scale.
        own: index of the own text of each image.
    """
    others = scores.scatter(1, own[:, None].to(scores.device), -torch.inf)
    return scores.gather(1, own[:, None].to(scores.device))[:, 0] > others.amax(1)


def compared_texts(prompt: str, others: Iterable[str]) -> list[str]:
    """The prompt and the different texts that it is compared with.

    A text that differs from the prompt only in case, spaces and punctuation at the end is the
    prompt itself: it would rank beside it by chance.

    Args:
        prompt: the prompt.
        others: texts, the prompt may be among them.
    """
    own = _plain_text(prompt)
    return [prompt, *(text for text in dict.fromkeys(others) if _plain_text(text) != own)]


def compared_columns(
    prompts: Sequence[str], texts: Sequence[str], others: Iterable[str]
) -> Bool[Tensor, "p t"]:
    """Which of some texts each prompt is compared with, as ``compared_texts`` says.

    Args:
        prompts: the prompts.
        texts: different texts, the prompts and ``others`` among them.
        others: texts that each prompt is compared with, it may be among them.
    """
    column = {text: i for i, text in enumerate(texts)}
    same: dict[str, list[int]] = {}
    for text, i in column.items():
        same.setdefault(_plain_text(text), []).append(i)
    wanted = set(others)
    is_compared = torch.tensor([text in wanted for text in texts]).repeat(len(prompts), 1)
    for row, prompt in enumerate(prompts):
        is_compared[row, same[_plain_text(prompt)]] = False
        is_compared[row, column[prompt]] = True
    return is_compared


def _plain_text(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .,")


def candidate_objects(prompt: str) -> tuple[tuple[int, int | None], ...]:
    """Return the objects and colors a prompt of the world is compared with.

    Returns:
        Pairs of object and color, first those of the prompt, then all others: all objects in every
        color if the prompt names a color, else all objects without one. Empty if the prompt names
        no
        object.
    """
    named = judgeable_attributes(prompt)
    if not named:
        return ()
    own = (named["object"], named.get("color"))
    colors: list[int | None] = [None] if own[1] is None else list(range(len(COLORS)))
    pairs = ((o, c) for o in range(len(OBJECTS)) for c in colors)
    return (own, *(pair for pair in pairs if pair != own))


def distractor_prompts(prompt: str) -> list[str]:
    """Return the other ``candidate_objects`` as texts, with the prompt's pattern and background."""
    named = judgeable_attributes(prompt)
    pattern = PATTERNS[named["pattern"]] if "pattern" in named else ""
    background = BACKGROUNDS[named["background"]] if "background" in named else ""
    return [
        caption(OBJECTS[o], "" if c is None else COLORS[c], pattern, background)
        for o, c in candidate_objects(prompt)[1:]
    ]


def candidate_log_probs(
    logits: dict[str, Tensor], prompt: str, geometry: bool = False
) -> Float[Tensor, "n t"]:
    """Log-probability of each of the ``candidate_objects``, the prompt's own in column 0.

    The evaluator's class for no known object is left out.

    Args:
        logits: what the evaluator returns, ``[N, classes]`` by attribute.
        prompt: a prompt that names an object.
        geometry: compare the objects only, for images without color.
    """
    candidates = candidate_objects(prompt)
    own_object, own_color = candidates[0]
    objects = logits["object"][:, : len(OBJECTS)].log_softmax(1)
    if geometry or own_color is None:
        others = [o for o in range(len(OBJECTS)) if o != own_object]
        return objects[:, [own_object, *others]]
    colors = logits["color"].log_softmax(1)
    return objects[:, [o for o, _ in candidates]] + colors[:, [c for _, c in candidates]]


def caption_scores(logits: dict[str, Tensor], prompts: Sequence[str]) -> Float[Tensor, "n t"]:
    """Score of each image for each caption of the world, for R-Precision among captions.

    The sum over the attributes that a caption names of ``log p(attribute | image) - log p``, where
    p is that of a uniform choice: captions that name no view have no advantage. The evaluator's
    class for no known object is left out.

    Args:
        logits: what the evaluator returns, ``[N, classes]`` by attribute.
        prompts: captions that name an object.
    """
    gains = {}
    for name, own in logits.items():
        known = own[:, : len(OBJECTS)] if name == "object" else own
        gains[name] = known.log_softmax(1) + math.log(known.shape[1])
    columns = []
    for prompt in prompts:
        named = judgeable_attributes(prompt).items()
        columns.append(torch.stack([gains[name][:, label] for name, label in named]).sum(0))
    return torch.stack(columns, 1)
