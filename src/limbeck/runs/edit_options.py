"""Options of image editing, with defaults by method and model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from limbeck.config.checks import check_options
from limbeck.config.yaml import build
from limbeck.diffusion.model_options import (
    Model,
    Precision,
    RuntimeOptions,
    as_model,
    check_control_image,
)
from limbeck.diffusion.prior import Prior
from limbeck.distillation.gradient_transforms import GradientTransform, NoTransform
from limbeck.distillation.noise import IndependentNoise, Noise
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import UniformWeight, Weight
from limbeck.methods.base import EditedModel, EditMethod
from limbeck.methods.dds import DDS
from limbeck.priors.families import flow_family, follows_instructions
from limbeck.priors.loading import find_vocabulary, is_exact
from limbeck.training.optimizers import SGD, Optimizer


@dataclass(frozen=True)
class EditOptions:
    """How images are edited; ``default_options`` gives the defaults of each method.

    Attributes:
        method: editing method.
        steps: number of optimization steps.
        lr: peak learning rate of the latents.
        timesteps: distribution of the diffusion times t.
        weight: weight w(t) of the gradient.
        optimizer: optimizer of the latents.
        noise: noise added to x0 in each step.
        grad_transform: transform of the gradient before the optimizer.
        negative_prompt: negative prompt for the source and the target.
        model: model whose latents are edited, as in a run.
        particles: results per image.
        seed: seed of all random draws.
        precision: dtype of the frozen weights, as in a run.
        runtime: execution options of the model, as in a run.
    """

    method: EditMethod = field(default_factory=lambda: DDS(guidance=3.0))
    steps: int = field(default=40, metadata={"minimum": 1})
    lr: float = field(default=0.2, metadata={"minimum": 0})
    timesteps: Timesteps = field(default_factory=lambda: UniformTimesteps(0.05, 0.95))
    weight: Weight = field(default_factory=UniformWeight)
    optimizer: Optimizer = field(default_factory=SGD)
    noise: Noise = field(default_factory=IndependentNoise)
    grad_transform: GradientTransform = field(default_factory=NoTransform)
    negative_prompt: str = ""
    model: Model | Prior | str = field(default_factory=Model)
    particles: int = field(default=1, metadata={"minimum": 1})
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**32 - 1})
    precision: Precision = "auto"
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)

    def __post_init__(self) -> None:
        model = as_model(self.model)
        object.__setattr__(self, "model", model)
        check_control_image(model, has_renders=False)
        check_options(self)


def default_options(method: type[EditMethod], model: Model | Prior | str = "world") -> EditOptions:
    """Options of a method that suit a model, see docs/editing.md.

    Args:
        method: the method; one of your own has the options of DDS unless it declares others.
        model: the model. The options of small ones, which are exact or know few words, are tuned on
            the embedded model; those of others are the published ones, of score distillation for
            Stable Diffusion, of flows for SD3 and Flux.
    """
    return options_for(method, _kind_of(model))


def options_for(method: type[EditMethod], kind: EditedModel) -> EditOptions:
    """Options of a method that suit a kind of model.

    Args:
        method: the method, as in `default_options`.
        kind: kind of model.
    """
    recipe = dict(method.edit_recipe(kind))
    own = build(method, recipe.pop("method", {}), "method")
    return replace(build(EditOptions, recipe), method=own)


def _kind_of(model: Model | Prior | str) -> EditedModel:
    """What methods tell models apart by."""
    if follows_instructions(model):
        return "instructions"
    if is_exact(model) or find_vocabulary(model) is not None:
        return "small"
    family = flow_family(model)
    return "diffusion" if family is None else "flux" if family == "flux" else "flow"


def default_method(model: Model | Prior | str) -> str:
    """The editing method of a model: sdedit if it follows instructions, else flow-edit or dds.

    flow-edit is that of flows and of models of few words, where it was measured to be the best
    (docs/leaderboard.md); dds that of others and of exact models, also if they are flows.
    """
    if follows_instructions(model):
        return "sdedit"
    if is_exact(model):
        return "dds"
    few_words = find_vocabulary(model) is not None
    return "flow-edit" if few_words or flow_family(model) is not None else "dds"
