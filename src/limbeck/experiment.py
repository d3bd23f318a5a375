"""An experiment: every choice of a run in one frozen value. It is its own configuration and reads back from what a run wrote."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from limbeck.gradient import Gradient, Plain
from limbeck.method import Method
from limbeck.methods.sds import SDS
from limbeck.noise import Fresh, Noise
from limbeck.prior import Parts, Precision, Running
from limbeck.representation import Spec
from limbeck.representations.latents import Latents
from limbeck.timestep import Timesteps
from limbeck.timesteps import Uniform as UniformTimes
from limbeck.views import Flat, Views
from limbeck.weights import DreamFusion, Weight


@dataclass(frozen=True)
class Optimizer(abc.ABC):
    """How gradients move parameters. The peak rate belongs to the representation.

    fall: share of the run after which the rate falls linearly to zero; 1 keeps it.
    """

    fall: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.fall <= 1:
            raise ValueError(f"fall is a share of the run in [0, 1], not {self.fall}")

    @abc.abstractmethod
    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer: ...

    def factor(self, step: int, steps: int) -> float:
        """What multiplies every rate at ``step`` of ``steps``."""
        progress = step / max(steps, 1)
        return 1.0 if progress <= self.fall else (1 - progress) / (1 - self.fall)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam without weight decay, which would shrink latents.

    beta1: of the mean. beta2: of the square. eps: added to the root of the square.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-15

    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer:
        every = _listed(groups)
        return torch.optim.Adam(every, betas=(self.beta1, self.beta2), eps=self.eps, fused=_on_cuda(every))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Plain gradient descent, with momentum if asked for.

    momentum: share of the last step that is kept.
    """

    momentum: float = 0.0

    def build(self, groups: Iterable[dict]) -> torch.optim.Optimizer:
        every = _listed(groups)
        return torch.optim.SGD(every, momentum=self.momentum, fused=_on_cuda(every))


def _listed(groups: Iterable[dict]) -> list[dict]:
    return [group | {"params": list(group["params"])} for group in groups]


def _on_cuda(groups: Iterable[dict]) -> bool | None:
    """True where all parameters are on CUDA: there a fused optimiser is one kernel, which can be told on the device not to move.
    Elsewhere it is left to torch."""
    return all(p.device.type == "cuda" for group in groups for p in group["params"]) or None


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
    parts: Parts = field(default_factory=Parts)
    running: Running = field(default_factory=Running)
    method: Method = field(default_factory=SDS)
    representation: Spec = field(default_factory=Latents)
    views: Views | None = None
    timesteps: Timesteps = field(default_factory=UniformTimes)
    weight: Weight = field(default_factory=DreamFusion)
    noise: Noise = field(default_factory=Fresh)
    gradient: Gradient = field(default_factory=Plain)
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
        for name, low in (("particles", 1), ("steps", 1), ("multistep", 1), ("batch", 0), ("seed", 0), ("perpendicular", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if self.perpendicular and not self.negative:
            raise ValueError(f"perpendicular {self.perpendicular} needs a text to keep away from: give it with --negative")
        if len(self.source) not in (0, 1, len(self.prompts)):
            raise ValueError(f"source must be one text for all or one for each of the {len(self.prompts)} prompts: {self.source}")
        if self.views is not None and isinstance(self.views, Flat) != isinstance(self.representation.views, Flat):
            what, sides = type(self.representation).__name__.lower(), type(self.representation.views).__name__.lower()
            raise ValueError(f"views {type(self.views).__name__.lower()} do not suit {what}, which takes {sides}")
        if self.source and not isinstance(self.representation.views, Flat):
            raise ValueError("source: edits are of pictures; there is none of what is seen from all sides")
        if self.method.moves == "noise" and self.representation.holds != "noise":
            name, what = (type(part).__name__.lower() for part in (self.method, self.representation))
            raise ValueError(f"{name} moves the noise of a picture, and {what} holds none: use --representation noises")
        if self.batch > self.total:
            raise ValueError(f"batch {self.batch} is more than the {self.total} particles (prompts x particles); use 0 for all")

    @property
    def looking(self) -> Views:
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
