"""Options of image editing, with defaults by method and model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from limbeck.config.checks import check_options
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
from limbeck.distillation.timesteps.deterministic import (
    FixedTimesteps,
    LinearTimesteps,
    TrailingTimesteps,
)
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import AlphaSigmaWeight, DreamFusionWeight, UniformWeight, Weight
from limbeck.methods.base import EditMethod
from limbeck.methods.cds import CDS
from limbeck.methods.csd_edit import CSDEdit
from limbeck.methods.dds import DDS
from limbeck.methods.dvrf import DVRF, VelocityEditMethod
from limbeck.methods.flow_align import FlowAlign
from limbeck.methods.flow_edit import FlowEdit
from limbeck.methods.ids import IDS
from limbeck.methods.lusd import LUSD
from limbeck.methods.pds import PDS
from limbeck.methods.sdedit import SDEdit
from limbeck.methods.ssd_edit import SSDEdit
from limbeck.priors.loading import find_vocabulary, flow_family, follows_instructions, is_exact
from limbeck.training.optimizers import SGD, Adam, Optimizer


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


#: SD3 and others whose guidance is classifier-free: steps and t_start of FlowEdit
_FLOWEDIT = 33, 0.66
#: Flux, whose network already has guidance, so that s = 1 is one pass
_FLOWEDIT_FLUX = 24, 24 / 28


def default_options(method: type[EditMethod], model: Model | Prior | str = "world") -> EditOptions:
    """Options of a method that suit a model, see docs/editing.md.

    Args:
        method: the method; one of your own has the options of DDS.
        model: the model. The options of small ones, which are exact or know few words, are tuned on
            the embedded model; those of others are the published ones, of score distillation for
            Stable Diffusion, of flows for SD3 and Flux.
    """
    if issubclass(method, SDEdit) and follows_instructions(model):
        # from noise alone, as its pipeline samples
        return EditOptions(method(guidance=7.5), steps=1, lr=1.0, timesteps=FixedTimesteps(1.0))
    if is_exact(model) or find_vocabulary(model) is not None:
        return _small(method)
    family = flow_family(model)
    return _published(method) if family is None else _of_a_flow(method, family)


def _small(method: type[EditMethod]) -> EditOptions:
    if issubclass(method, SDEdit):
        return EditOptions(method(guidance=5.0), steps=1, lr=1.0, timesteps=FixedTimesteps(0.7))
    if issubclass(method, PDS):
        return EditOptions(method(guidance=7.5), steps=60, lr=0.05, optimizer=Adam(decay_start=1.0))
    if issubclass(method, FlowEdit):
        return _euler(method(guidance=5.0, source_guidance=1.0), 40, 0.85)
    if issubclass(method, FlowAlign):
        return _euler(method(guidance=3.0), 50, 1.0)
    if issubclass(method, DVRF):
        return EditOptions(method(guidance=3.0, source_guidance=1.0), lr=0.04)
    if issubclass(method, SSDEdit):
        options = _published(method)
        return replace(options, method=method(guidance=3.0), steps=80, lr=0.035)
    if issubclass(method, LUSD):
        return EditOptions(method(guidance=4.0), steps=80, lr=0.2)
    if issubclass(method, IDS):
        return EditOptions(method(guidance=3.0), steps=8, lr=1.0)
    if issubclass(method, CSDEdit):
        # one time for all images, which its kernel compares
        uniform = UniformTimesteps(0.05, 0.95, per_row=False)
        return EditOptions(method(guidance=3.0), timesteps=uniform)
    return EditOptions(method(guidance=3.0))


def _published(method: type[EditMethod]) -> EditOptions:
    if issubclass(method, SDEdit):
        return EditOptions(method(guidance=7.5), steps=1, lr=1.0, timesteps=FixedTimesteps(0.7))
    if issubclass(method, PDS):
        return EditOptions(method(guidance=7.5), steps=60, lr=0.05, optimizer=Adam(decay_start=1.0))
    if issubclass(method, FlowEdit):
        return _euler(method(), *_FLOWEDIT)
    if issubclass(method, FlowAlign):
        return _euler(method(), 33, 1.0)
    if issubclass(method, DVRF):
        return EditOptions(method(), steps=50, lr=0.044, timesteps=TrailingTimesteps())
    if issubclass(method, SSDEdit):
        linear = LinearTimesteps(0.02, 0.98)
        return EditOptions(method(), steps=1500, lr=0.01, timesteps=linear, optimizer=Adam())
    if issubclass(method, LUSD):
        return EditOptions(method(), steps=300, lr=0.5)
    if issubclass(method, CSDEdit):
        options = EditOptions(method(guidance=7.5), steps=200, lr=2.0, weight=DreamFusionWeight())
        uniform = UniformTimesteps(0.02, 0.5, per_row=False)
        return replace(options, timesteps=uniform, optimizer=SGD(decay_start=0.0))
    return EditOptions(method(guidance=7.5), steps=200, lr=0.05)


def _of_a_flow(method: type[EditMethod], family: str) -> EditOptions:
    """Score distillation in velocities, w = 1 / (1 - u), and no guidance on top of Flux's own."""
    options = _published(method)
    if issubclass(method, DDS | CDS | IDS):
        # DVRF with eta = 0
        in_velocities = AlphaSigmaWeight(-1.0, 0.0)
        options = replace(options, steps=50, lr=0.044, weight=in_velocities)
    if family != "flux" or issubclass(method, FlowAlign | SSDEdit | LUSD):
        return options  # these three are guided from the source prompt
    unguided = replace(options.method, guidance=1.0)
    if isinstance(unguided, VelocityEditMethod):
        unguided = replace(unguided, source_guidance=1.0)
    if isinstance(unguided, FlowEdit):
        return _euler(unguided, *_FLOWEDIT_FLUX)
    return replace(options, method=unguided)


def _euler(method: EditMethod, steps: int, t_start: float) -> EditOptions:
    """The Euler solver of a method that knows its own step."""
    return EditOptions(method, steps=steps, lr=1.0, timesteps=TrailingTimesteps(t_start))


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
