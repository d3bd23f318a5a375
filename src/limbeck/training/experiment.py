"""An experiment: every choice of a run in one frozen value. It is its own configuration and reads back from what a run wrote."""

from __future__ import annotations

from dataclasses import dataclass, field

from limbeck.config.discovery import component_name
from limbeck.diffusion.model_options import Model, Precision, RuntimeOptions, as_model
from limbeck.diffusion.prior import Prior
from limbeck.distillation.gradient_transforms import GradientTransform, NoTransform
from limbeck.distillation.noise import IndependentNoise, Noise
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import DreamFusionWeight, Weight
from limbeck.graphics.cameras.samplers import CameraSampler, NoCamera
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
    negative_prompt: str = ""
    perp_neg: float = 0.0
    source_prompt: tuple[str, ...] = ()
    model: Model | Prior | str = field(default_factory=Model)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    method: Method = field(default_factory=SDS)
    representation: RepresentationConfig = field(default_factory=Latents)
    cameras: CameraSampler | None = None
    timesteps: Timesteps = field(default_factory=UniformTimesteps)
    weight: Weight = field(default_factory=DreamFusionWeight)
    noise: Noise = field(default_factory=IndependentNoise)
    grad_transform: GradientTransform = field(default_factory=NoTransform)
    optimizer: Optimizer = field(default_factory=Adam)
    particles: int = 1
    batch_size: int = 0
    denoise_steps: int = 1
    steps: int = 500
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_model(self.model))
        if not self.prompts or not all(p.strip() for p in self.prompts):
            raise ValueError("a prompt is missing: give at least one text that is not empty")
        least = {
            "particles": 1,
            "steps": 1,
            "denoise_steps": 1,
            "batch_size": 0,
            "seed": 0,
            "perp_neg": 0,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if self.perp_neg and not self.negative_prompt:
            raise ValueError(
                f"perp_neg {self.perp_neg} needs a negative prompt: give it with --negative-prompt"
            )
        if len(self.source_prompt) not in (0, 1, len(self.prompts)):
            raise ValueError(
                "source_prompt must be one text for all or one for each of the "
                f"{len(self.prompts)} prompts, not {self.source_prompt}"
            )
        if self.batch_size > self.total:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {self.total} particles "
                "(prompts x particles); use 0 for all"
            )
        self._check_representation()

    def _check_representation(self) -> None:
        """Refuse cameras, edits and methods that the representation does not support."""
        own, name = self.representation.cameras, component_name(type(self.representation))
        if self.cameras is not None and isinstance(self.cameras, NoCamera) != isinstance(
            own, NoCamera
        ):
            chosen, suited = component_name(type(self.cameras)), component_name(type(own))
            raise ValueError(
                f"cameras {chosen} do not suit the representation {name}; use {suited}"
            )
        if self.source_prompt and not isinstance(own, NoCamera):
            raise ValueError(f"source_prompt edits images, but the representation {name} is 3D")
        if self.method.optimizes == "noise" and self.representation.contents != "noise":
            method = component_name(type(self.method))
            raise ValueError(
                f"method {method} optimizes the noise of an image, which the representation {name} "
                "does not hold: use --representation noise-map"
            )

    @property
    def camera_sampler(self) -> CameraSampler:
        """The views, chosen or those of the representation."""
        return self.cameras or self.representation.cameras

    @property
    def total(self) -> int:
        """Particles in all, prompt by prompt: particle i belongs to prompt i // particles."""
        return len(self.prompts) * self.particles

    @property
    def source_prompts(self) -> tuple[str, ...]:
        """What each prompt's picture shows before an edit; empty where there is none."""
        return (
            self.source_prompt * len(self.prompts)
            if len(self.source_prompt) == 1
            else self.source_prompt
        )
