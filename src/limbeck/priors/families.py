"""Families of published models: by the class of their pipeline, and what they take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.diffusion.model_options import IMAGE_GUIDANCE, Model
from limbeck.diffusion.prior import InstructionPrior, Prior
from limbeck.diffusion.schedule import RectifiedFlowSchedule
from limbeck.system.files import read_json_object

if TYPE_CHECKING:
    from limbeck.priors.catalog import KnownModel

INSTRUCTION_PIPELINE = "StableDiffusionInstructPix2PixPipeline"
#: Pipelines of a family, by pattern of ``_class_name``, and the class of ``limbeck.priors`` that
#: reads them.
FAMILIES = {
    INSTRUCTION_PIPELINE: "InstructPix2Pix",
    r"StableDiffusion(?!XL|3)\w*Pipeline": "StableDiffusion",
    r"StableDiffusionXL\w*Pipeline": "SDXL",
    r"IF(?!SuperResolution|\w+SuperResolution)\w*Pipeline": "DeepFloydIF",
    r"StableDiffusion3\w*Pipeline": "SD3",
    r"Flux(?!2)\w*Pipeline": "Flux",
    r"Flux2Pipeline": "Flux2",
    r"Flux2Klein(?!KV)\w*Pipeline": "Flux2Klein",
    r"Sana(PAG|ControlNet)?Pipeline": "Sana",
    r"PixArt(Alpha|Sigma)\w*Pipeline": "PixArt",
    r"Lumina2Pipeline": "Lumina2",
    r"QwenImage(?!Edit|Layered|21)\w*Pipeline": "QwenImage",
    r"Zero123Pipeline|Zero1to3StableDiffusionPipeline": "Zero123",
}
#: Families that are rectified flows, and those whose network has guidance of its own or needs none:
#: both by the class of ``limbeck.priors`` and as in the list of known models.
_FLOWS = frozenset({"SD3", "Flux", "Flux2", "Flux2Klein", "Sana", "Lumina2", "QwenImage"})
_OWN_GUIDANCE = frozenset({"Flux", "Flux2", "flux", "schnell", "flux2", "klein"})


def follows_instructions(model: Model | Prior | str) -> bool:
    """Whether a model edits images by instructions; of one that is not loaded, by its files.

    Args:
        model: the model, as for ``load``. One of the hub that is neither cached nor in the list of
            known models counts as none.
    """
    if not isinstance(model, Model | str):
        return isinstance(model, InstructionPrior)
    known, index = _find_pipeline(model)
    if known is not None:
        return known.family == "instruct-pix2pix"
    return index.get("_class_name") == INSTRUCTION_PIPELINE


def scale_without_null(model: Model | Prior | str) -> float:
    """The guidance scale at which a model does not read the null prompt.

    1, or with guidance by an image that of the image: the three predictions have the weights
    1 - s_I, s_I - s and s.

    Args:
        model: the model, as for ``follows_instructions``.
    """
    if not follows_instructions(model):
        return 1.0
    if isinstance(model, InstructionPrior):
        return model.image_guidance
    own = model.image_guidance if isinstance(model, Model) else None
    return IMAGE_GUIDANCE if own is None else own


def flow_family(model: Model | Prior | str) -> str | None:
    """Which kind of rectified flow a model is; of one that is not loaded, by its files.

    Args:
        model: the model, as for ``load``. One of the hub that is neither cached nor in the list of
            known models counts as none.

    Returns:
        ``flux`` for Flux, whose network has guidance of its own or needs none, ``flow`` for others,
        and None for a model that is no flow.
    """
    if not isinstance(model, Model | str):
        from limbeck.priors.diffusers_base import DiffusersPrior

        if not isinstance(model.schedule, RectifiedFlowSchedule):
            return None
        index = model.index if isinstance(model, DiffusersPrior) else {}
        return "flux" if _has_own_guidance(type(model).__name__, index) else "flow"
    known, index = _find_pipeline(model)
    if known is not None:
        is_flow, has_guidance = known.prediction_type == "flow", known.family in _OWN_GUIDANCE
    else:
        family = family_of(str(index.get("_class_name")))
        is_flow, has_guidance = family in _FLOWS, _has_own_guidance(family, index)
    return ("flux" if has_guidance else "flow") if is_flow else None


def _has_own_guidance(family: str, index: Mapping[str, Any]) -> bool:
    """Whether the network has guidance of its own or needs none.

    Args:
        family: class of ``limbeck.priors``.
        index: its model_index.json, by which klein is told from klein base.
    """
    is_distilled = family == "Flux2Klein" and bool(index.get("is_distilled", False))
    return is_distilled or family in _OWN_GUIDANCE


def family_of(pipeline: str) -> str:
    """Family of a pipeline by its ``_class_name``; empty if it is of none."""
    # image-to-image, inpainting and other pipelines have the same components; whether the network
    # has the inputs of the family is checked where it is read
    return next((f for pattern, f in FAMILIES.items() if re.fullmatch(pattern, pipeline)), "")


def _find_pipeline(model: Model | str) -> tuple[KnownModel | None, dict[str, Any]]:
    """The published model of this name, or else the model_index.json of its files, {} if none."""
    from limbeck.priors.catalog import find_model
    from limbeck.priors.hub import REPO_ID_PATTERN, find_cached

    folder, hub_id = Path(str(model)).expanduser(), REPO_ID_PATTERN.fullmatch(str(model))
    if not folder.exists() and hub_id is not None:
        known = find_model(hub_id["repo"])
        if known is not None:
            return known, {}
        folder = find_cached(hub_id["repo"], hub_id["revision"], weights=False) or folder
    index = folder / "model_index.json"
    return None, read_json_object(index) if index.is_file() else {}
