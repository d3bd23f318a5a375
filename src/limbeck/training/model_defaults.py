"""Options of a run that are left out: those of the papers, or a model's own where it has some.

A published guidance scale belongs to the model it was published for: 100 is common for SDS on
Stable Diffusion and ruins images of the embedded model. On an exact prior any scale but 1 leaves
the law that the prior is known for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeGuard

from limbeck.config.discovery import OWN_FILE, choices, find
from limbeck.config.yaml import build
from limbeck.diffusion.model_options import Model
from limbeck.methods.base import EditMethod, Method
from limbeck.priors.exact import DataSet, GaussianMixture
from limbeck.priors.loading import EMBEDDED_MODELS, is_exact
from limbeck.representations.base import RepresentationConfig
from limbeck.training.experiment import Experiment
from limbeck.world.pretrained import WEIGHTS

_LEFT_OUT = {"model": "world", "method": "sds", "representation": "latents"}
CHOICES = tuple(_LEFT_OUT)  #: options that the defaults of others depend on


@cache
def embedded_defaults() -> Mapping[str, Mapping[str, Any]]:
    """Options by method, as in run.yaml, that did best on the embedded model.

    They are what the tuning of ``limbeck bench`` chose, on latents, with one seed.
    """
    path = WEIGHTS / "method_defaults.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def default_experiment(prompts: Sequence[str], chosen: Mapping[str, Any]) -> Experiment:
    """The experiment whose values stand for the options that are left out.

    Args:
        prompts: the prompts.
        chosen: what was chosen for ``model``, ``method`` and ``representation``, if anything: a
            name, a mapping of options, or an object, which lacks no options.

    """
    names = {part: _name(chosen.get(part), default) for part, default in _LEFT_OUT.items()}
    has_law = _has_law(chosen.get("model"), names["model"])
    tuned = {_squash(name): name for name in embedded_defaults()}
    name = tuned.get(_squash(names["method"]))
    is_embedded = names["model"] in EMBEDDED_MODELS
    if not is_embedded or name is None:
        recipe = _recipe(names, has_law)
        return build(Experiment, {"prompts": list(prompts), **recipe})
    options = dict(embedded_defaults()[name])
    options["method"] = {"name": name, **options.get("method", {})}
    if names["representation"] != _LEFT_OUT["representation"]:
        options.pop("representation", None)  # learning rates of latents
    return build(Experiment, {"prompts": list(prompts)} | options)


def _recipe(names: Mapping[str, str], has_law: bool) -> Mapping[str, Any]:
    """Options that belong to a method by its paper, with the method itself; often none.

    On the embedded model a method that edits images has its own options as in ``limbeck edit``, and
    one whose paper sets the times, as solvers do, also these and the steps. On an exact prior the
    guidance scale of the others is 1, as in ``limbeck bench --quick``.
    """
    method, representation = names["method"], names["representation"]
    methods: Mapping[str, type[Method]] = choices(Method)
    representations: Mapping[str, type[RepresentationConfig]] = choices(RepresentationConfig)
    classes = {_squash(name): cls for name, cls in methods.items()}
    configs = {_squash(name): cls for name, cls in representations.items()}
    found, config = classes.get(_squash(method)), configs.get(_squash(representation))
    if found is None:
        return {}
    is_3d = config is not None and config.cameras is not RepresentationConfig.cameras
    recipe = dict(found.recipe(is_3d))
    if representation != _LEFT_OUT["representation"]:
        recipe.pop("representation", None)  # learning rates of latents
    if names["model"] in EMBEDDED_MODELS and _edits_images(found):
        settings = {"steps", *recipe} if recipe else set()
        edit = {"method": {}, **found.edit_recipe("small")}
        recipe |= {setting: edit[setting] for setting in settings if setting in edit}
        recipe["method"] = {"name": method, **edit["method"]}
    if has_law and _is_guided(found):
        recipe["method"] = {"name": method, "guidance": 1.0, **recipe.get("method", {})}
    return {"method": method, **recipe} if recipe else {}


def _has_law(chosen: Any, name: str) -> bool:
    """Whether a model is an exact prior: one of Limbeck, of a file, or an object."""
    if OWN_FILE.fullmatch(name):
        return issubclass(find(Model.custom_base, name), GaussianMixture | DataSet)
    return is_exact(name) or isinstance(chosen, GaussianMixture | DataSet)


def _edits_images(method: type[Method]) -> TypeGuard[type[EditMethod]]:
    return issubclass(method, EditMethod) and method.optimizes == "images"


def _is_guided(method: type[Method]) -> bool:
    """Whether it makes images from a prompt alone and has a guidance scale."""
    return not issubclass(method, EditMethod) and "guidance" in {f.name for f in fields(method)}


def _name(chosen: Any, default: str) -> str:
    """The name of a component as it was chosen; empty for an object."""
    if isinstance(chosen, Model):
        return chosen.name
    if isinstance(chosen, Mapping):
        chosen = chosen.get("name")
    return default if chosen is None else chosen if isinstance(chosen, str) else ""


def _squash(name: str) -> str:
    return re.sub("[-_]", "", name.lower())
