"""An experiment: every choice of a run in one frozen value. It is its own configuration and reads back from what a run wrote."""

from __future__ import annotations

from dataclasses import dataclass, field

from limbeck.diffusion.model_options import ModelOverrides, Precision, RuntimeOptions
from limbeck.distillation.gradient_transforms import GradientTransform, NoTransform
from limbeck.distillation.noise import IndependentNoise, Noise
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps as UniformTimes
from limbeck.distillation.weights import DreamFusionWeight, Weight
from limbeck.graphics.cameras.views import CameraSampler, NoCamera
from limbeck.methods.base import Method
from limbeck.methods.sds import SDS
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.training.optimizers import Adam, Optimizer


@dataclass(frozen=True)
class Experiment:
    """What is run.

    prompts: one or more texts. negative: what guidance leads away from, for all of them. perpendicular: 0 puts the negative
    text in the place of the empty one, as diffusers does; above, it is the weight of Perp-Neg, which removes only what of the
    negative text the prompt does not say itself. source: of an edit, what the first pictures show, one text for all or one per
    prompt. model: ``world`` (embedded), ``gaussians``, ``gaussians-flow`` (the same under a rectified flow), ``dataset:FOLDER``, a
    diffusers pipeline's folder, a ``.safetensors`` checkpoint, or a hub id ``owner/name@revision``; limbeck models lists some.
    parts: what is changed of that model. running: how its network and autoencoder are run. views: from where it is looked at;
    left out, as the representation is made for. particles: independent results per prompt. batch: particles drawn per step, 0 for
    all. multistep: denoising steps behind every guided prediction. steps: iterations. seed: decides every random draw. precision:
    of a network's frozen weights; auto is float32 on a CPU, where bfloat16 can be twice as fast, and 16 bits on a GPU.
    """

    prompts: tuple[str, ...]
    negative: str = ""
    perpendicular: float = 0.0
    source: tuple[str, ...] = ()
    model: str = "world"
    parts: ModelOverrides = field(default_factory=ModelOverrides)
    running: RuntimeOptions = field(default_factory=RuntimeOptions)
    method: Method = field(default_factory=SDS)
    representation: RepresentationConfig = field(default_factory=Latents)
    views: CameraSampler | None = None
    timesteps: Timesteps = field(default_factory=UniformTimes)
    weight: Weight = field(default_factory=DreamFusionWeight)
    noise: Noise = field(default_factory=IndependentNoise)
    gradient: GradientTransform = field(default_factory=NoTransform)
    optimizer: Optimizer = field(default_factory=Adam)
    particles: int = 1
    batch: int = 0
    multistep: int = 1
    steps: int = 500
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not self.prompts or not all(p.strip() for p in self.prompts):
            raise ValueError("a prompt is missing: give at least one text that is not empty")
        for name, low in (
            ("particles", 1),
            ("steps", 1),
            ("multistep", 1),
            ("batch", 0),
            ("seed", 0),
            ("perpendicular", 0),
        ):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if self.perpendicular and not self.negative:
            raise ValueError(
                f"perpendicular {self.perpendicular} needs a text to keep away from: give it with --negative"
            )
        if len(self.source) not in (0, 1, len(self.prompts)):
            raise ValueError(
                f"source must be one text for all or one for each of the {len(self.prompts)} prompts: {self.source}"
            )
        if self.views is not None and isinstance(self.views, NoCamera) != isinstance(
            self.representation.views, NoCamera
        ):
            what, sides = (
                type(self.representation).__name__.lower(),
                type(self.representation.views).__name__.lower(),
            )
            raise ValueError(
                f"views {type(self.views).__name__.lower()} do not suit {what}, which takes {sides}"
            )
        if self.source and not isinstance(self.representation.views, NoCamera):
            raise ValueError(
                "source: edits are of pictures; there is none of what is seen from all sides"
            )
        if self.method.moves == "noise" and self.representation.holds != "noise":
            name, what = (
                type(part).__name__.lower() for part in (self.method, self.representation)
            )
            raise ValueError(
                f"{name} moves the noise of a picture, and {what} holds none: use --representation noises"
            )
        if self.batch > self.total:
            raise ValueError(
                f"batch {self.batch} is more than the {self.total} particles (prompts x particles); use 0 for all"
            )

    @property
    def looking(self) -> CameraSampler:
        """The views, chosen or those of the representation."""
        return self.views or self.representation.views

    @property
    def total(self) -> int:
        """Particles in all, prompt by prompt: particle i belongs to prompt i // particles."""
        return len(self.prompts) * self.particles

    @property
    def sources(self) -> tuple[str, ...]:
        """What each prompt's picture shows before an edit; empty where there is none."""
        return self.source * len(self.prompts) if len(self.source) == 1 else self.source
