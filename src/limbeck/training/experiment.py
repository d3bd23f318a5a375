"""An experiment: all choices of a run in one frozen dataclass, which run.yaml stores."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

from limbeck.config.checks import check_options
from limbeck.config.discovery import component_name
from limbeck.config.yaml import read_component
from limbeck.diffusion.model_options import (
    Model,
    Precision,
    RuntimeOptions,
    as_model,
    check_control_image,
)
from limbeck.diffusion.prior import Prior
from limbeck.distillation.augmentations import Augmentation, NoAugmentation
from limbeck.distillation.critics.base import CriticTraining
from limbeck.distillation.gradient_transforms import GradientTransform, NoTransform
from limbeck.distillation.noise import IndependentNoise, Noise
from limbeck.distillation.timesteps.base import RandomTimesteps, Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.distillation.weights import DreamFusionWeight, Weight
from limbeck.graphics.cameras.samplers import CameraSampler, NoCamera
from limbeck.methods.base import CriticMethod, EditMethod, Method
from limbeck.methods.sds import SDS
from limbeck.priors.families import scale_without_null
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.latents import Latents
from limbeck.system.random import RunSeed
from limbeck.training.optimizers import Adam, Optimizer
from limbeck.training.reference import ImageReference

_LEAST = {
    "particles": 1,
    "steps": 1,
    "denoise_steps": 1,
    "batch_size": 0,
    "perp_neg": 0,
}  #: smallest value of an option


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run.

    Attributes:
        prompts: one or more prompts.
        negative_prompt: prompt that guidance moves away from, for all prompts.
        perp_neg: Perp-Neg weight on the negative prompt. 0: use the negative prompt as the
            unconditional one (as diffusers).
        source_prompt: what the initial images show, for editing methods; one prompt for all, or one
            per prompt.
        model: the diffusion model, a prior of your own, or the name of a model.
        runtime: how the model is executed.
        method: score distillation method; limbeck methods says which are for edits.
        representation: what is optimized.
        cameras: distribution of the cameras of a 3D representation. None: the one that suits the
            representation.
        augmentation: random change of the rendered images of a 2D representation before the
            encoder.
        timesteps: distribution of the diffusion times t.
        weight: weight w(t) of the gradient.
        noise: noise that is added to x_0.
        grad_transform: transform of the gradient before the backward pass.
        optimizer: optimizer of the representation.
        reference: image of the object, which a 3D run reproduces from its camera.
        particles: independent results per prompt.
        batch_size: particles drawn per step; 0 for all. A generator, whose rows are new samples of
            the prompts anyway, draws as many rows as this says, more than particles if need be.
        denoise_steps: denoising steps behind every guided prediction.
        steps: optimization steps.
        seed: determines every random draw.
        precision: dtype of the frozen weights. auto: bfloat16 on a CPU with instructions for it,
            float32 on other CPUs, 16 bits on a GPU.
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
    augmentation: Augmentation = field(default_factory=NoAugmentation)
    timesteps: Timesteps = field(default_factory=UniformTimesteps)
    weight: Weight = field(default_factory=DreamFusionWeight)
    noise: Noise = field(default_factory=IndependentNoise)
    grad_transform: GradientTransform = field(default_factory=NoTransform)
    optimizer: Optimizer = field(default_factory=Adam)
    reference: ImageReference = field(default_factory=ImageReference)
    particles: int = 1
    batch_size: int = 0
    denoise_steps: int = 1
    steps: int = 500
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**32 - 1})
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        model = self.model
        if isinstance(model, str):
            model = read_component(Model, model, "model")
        model = as_model(model)
        object.__setattr__(self, "model", model)
        check_options(self)
        has_prompts = self.reference.image is not None or all(p.strip() for p in self.prompts)
        if not self.prompts or not has_prompts:
            self.reference.check_effect()  # a recipe from an image lacks the image
            raise ValueError("a prompt is missing: give at least one text that is not empty")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.perp_neg and not self.negative_prompt:
            raise ValueError(
                f"perp_neg {self.perp_neg} needs a negative prompt: give it with --negative-prompt"
            )
        if len(self.source_prompt) not in (0, 1, len(self.prompts)):
            raise ValueError(
                "source_prompt must be one text for all or one for each of the "
                f"{len(self.prompts)} prompts, not {self.source_prompt}"
            )
        if self.batch_size > self.total and not self.representation.fresh_samples:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {self.total} particles "
                "(prompts x particles); use 0 for all"
            )
        self.method.check_steps(self.steps)
        self._check_times()
        self._check_representation()
        self._check_view_groups()
        self._check_guidance()

    def _check_times(self) -> None:
        """Refuse a time of each row where the method compares the x_t of rows."""
        draws_each = isinstance(self.timesteps, RandomTimesteps) and self.timesteps.per_row
        if self.method.needs_shared_times and draws_each and self.rows_per_step > 1:
            raise ValueError(
                f"method {component_name(type(self.method))} compares x_t of the rows of a step, "
                "which needs one time for all of them: use --timesteps.no-per-row, or "
                "--method.kernel-space x0"
            )

    def _check_representation(self) -> None:
        """Refuse cameras, edits and methods that the representation does not support."""
        default, cameras = self.representation.cameras, self.camera_sampler
        is_3d, name = not isinstance(default, NoCamera), component_name(type(self.representation))
        if isinstance(cameras, NoCamera) == is_3d:
            chosen, suited = component_name(type(cameras)), component_name(type(default))
            raise ValueError(
                f"cameras {chosen} do not suit the representation {name}; use {suited}"
            )
        check_control_image(self.model, has_renders=is_3d)
        if self.noise_of_run.needs_views and not is_3d:
            noise = component_name(type(self.noise_of_run))
            raise ValueError(
                f"noise {noise} lies on a surface that cameras see, but the representation {name} "
                "is 2D: use --noise fixed-per-particle, which is the same without cameras"
            )
        if self.reference.image is not None and not is_3d:
            raise ValueError(
                f"reference.image is seen by a camera, but the representation {name} is 2D: use a "
                "3D one, or start from the image with --representation.images"
            )
        views = [view.strip(" ,") for view in cameras.prompts_by_view("")] if is_3d else []
        for prompt in self.prompts:
            if named := [v for v in views if v and prompt.lower().rstrip(" .").endswith(v)]:
                raise ValueError(
                    f'the prompt "{prompt}" names the view "{named[0]}", but a 3D run shows the '
                    "object from all sides: leave the view out"
                )
        if self.source_prompt and is_3d:
            raise ValueError(f"source_prompt edits images, but the representation {name} is 3D")
        if self.source_prompt and self.representation.fresh_samples:
            raise ValueError(
                f"source_prompt edits images, but the representation {name} renders new ones in "
                "every step"
            )
        self._check_augmentation(is_3d)
        if self.method.optimizes == "noise" and self.representation.contents != "noise":
            method = component_name(type(self.method))
            raise ValueError(
                f"method {method} optimizes the noise of an image, which the representation {name} "
                "does not hold: use limbeck edit IMAGE, or --representation noise-map"
            )
        if self.representation.contents == "noise" and self.method.optimizes != "noise":
            method = component_name(type(self.method))
            raise ValueError(
                f"representation {name} holds the noise of images, which method {method} does not "
                "optimize: use --method irfds, or --representation latents"
            )

    def _check_augmentation(self, is_3d: bool) -> None:
        """Refuse an augmentation of what is not a drawing that stands by itself."""
        if not self.augmentation.changes_images:
            return
        chosen = f"augmentation {component_name(type(self.augmentation))}"
        if is_3d:
            raise ValueError(
                f"{chosen} warps 2D drawings, but cameras look at the representation "
                f"{component_name(type(self.representation))} from all sides anyway: leave it out"
            )
        if self.source_prompt or self.method.optimizes == "noise":
            raise ValueError(
                f"{chosen} shows another part of the image in every step, which an edit compares "
                "with its whole source: leave it out"
            )
        if isinstance(self.model, Model) and self.model.control_image is not None:
            raise ValueError(
                f"{chosen} warps the render, but not model.control_image: leave one of them out"
            )

    def _check_view_groups(self) -> None:
        """Refuse cameras and critics whose rows do not come in whole groups of views."""
        cameras, size = self.camera_sampler, self.camera_sampler.group_size
        if cameras.per_particle % size:
            raise ValueError(
                f"cameras {component_name(type(cameras))}: per_particle {cameras.per_particle} is "
                f"no multiple of the {size} views of a group"
            )
        if isinstance(self.method, CriticMethod):
            training = getattr(self.method.critic, "training", CriticTraining())
            training.check_groups(size, self.rows_per_step)

    def _check_guidance(self) -> None:
        """Refuse negative prompts, Perp-Neg, denoising steps and noise that change nothing."""
        views = self.camera_sampler.has_perp_neg
        given = {
            "negative_prompt": self.negative_prompt if not self.perp_neg else "",
            "perp_neg": self.perp_neg,
            "cameras.perp_neg": views,
            "denoise_steps": self.denoise_steps if self.denoise_steps > 1 else 0,
            "noise": "" if self.noise == IndependentNoise() else component_name(type(self.noise)),
        }
        unused, is_edit = self.method.unused_options(), isinstance(self.method, EditMethod)
        by_setting = [setting.guidance_scales for setting in self.method.settings()]
        if None not in by_setting:
            scales = [s for scales in by_setting for s in scales or ()]
            scales = [*scales, *self.noise_of_run.guidance_scales]
            without_null = scale_without_null(self.model) if self.negative_prompt else 1
            if scales and set(scales) == {without_null} and not views:
                # limbeck edit has no Perp-Neg, nor have models with guidance by an image
                other = (
                    "leave it out" if is_edit or without_null != 1 else "weight it by --perp-neg"
                )
                instead = f"use a guidance scale other than {without_null:g}, or {other}"
                unused = {"negative_prompt": instead, **unused}
            elif not scales:
                read = [name for name in given if name != "noise"]
                unused = {**dict.fromkeys(read, "use a guidance scale other than 0"), **unused}
            elif set(scales) == {0}:
                instead = "use a guidance scale other than 0"
                unused = {"perp_neg": instead, "cameras.perp_neg": instead, **unused}
        for name, instead in unused.items():
            if given[name]:
                method = component_name(type(self.method))
                option = name if given[name] is True else f"{name} {given[name]}"
                raise ValueError(f"method {method} does not use {option}: {instead}")

    @property
    def camera_sampler(self) -> CameraSampler:
        """The cameras, chosen or those of the representation."""
        return self.cameras or self.representation.cameras

    @property
    def noise_of_run(self) -> Noise:
        """The noise, or what the method has in place of independent noise."""
        is_3d = not isinstance(self.representation.cameras, NoCamera)
        return self.method.noise_of_run(self.noise, is_3d)

    @property
    def run_seed(self) -> RunSeed:
        """The seed of all draws, with which particle i of a prompt draws the same in any run."""
        return RunSeed(self.seed, self.particles)

    @property
    def total(self) -> int:
        """Number of particles, prompt by prompt: particle i belongs to prompt i // particles."""
        return len(self.prompts) * self.particles

    @property
    def rows_per_step(self) -> int:
        """Rows of a step: the views of all particles that are drawn."""
        return (self.batch_size or self.total) * self.camera_sampler.per_particle

    @property
    def draws_all(self) -> bool:
        """Whether every step draws all particles."""
        return self.batch_size in (0, self.total)

    @property
    def source_prompts(self) -> tuple[str, ...]:
        """Source prompt of each prompt; empty if there is none."""
        repeats = len(self.prompts) if len(self.source_prompt) == 1 else 1
        return self.source_prompt * repeats

    @property
    def all_prompts(self) -> tuple[str, ...]:
        """Prompts, negative prompt and source prompts; an absent negative prompt is ""."""
        return (*self.prompts, self.negative_prompt, *self.source_prompt)


def with_lr(experiment: Experiment, lr: float) -> Experiment:
    """The experiment with another peak learning rate of its representation.

    Raises:
        ValueError: if the representation has no single learning rate; the message lists its own.
    """
    representation = experiment.representation
    names = [f.name for f in fields(representation) if f.name.split("_")[-1] == "lr"]
    if "lr" not in names:
        flags = [f"--representation.{name.replace('_', '-')}" for name in names]
        name = component_name(type(representation))
        raise ValueError(f"--lr: the representation {name} has {', '.join(flags) or 'no lr'}")
    changed = replace(representation, lr=lr)  # type: ignore[call-arg]
    return replace(experiment, representation=changed)
