"""DDIM and ancestral sampling from a prior or a critic, and options of one-step samples."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import posterior_std
from limbeck.diffusion.model_options import (
    Model,
    Precision,
    RuntimeOptions,
    as_model,
    check_control_image,
)
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device

#: Options of ``Sampling`` that a one-step generator does not have.
_OF_SAMPLER = (
    "negative_prompt",
    "steps",
    "guidance",
    "sampler",
    "views",
    "image",
    "critic",
    "camera",
)


@dataclass(frozen=True)
class Sampling:
    """Options of sampling.

    Attributes:
        prompts: one or more prompts.
        negative_prompt: prompt that guidance moves away from.
        model: the diffusion model, as in a run.
        runtime: how the model is executed, as in a run.
        steps: network calls per image.
        guidance: guidance scale s. 1: no guidance.
        sampler: ddim (deterministic) or ancestral.
        num_images: images per prompt.
        views: images of one object that are drawn together, seen from around it: the front first,
            then 360 / views degrees further each. Models of several views are given the cameras;
            with other U-Nets this is experimental: view words are added to the prompts, and
            self-attention sees the images of an object together. 1: every image is its own.
        image: image file of the object, used as it is, with its background: the first of the views
            with a model of several views that was trained to be given one of them, an image of the
            front beside the prompt with ImageDream.
        seed: seed of the noise.
        critic: run folder whose critic is sampled instead of the prior.
        generator: run folder of a one-step generator, whose EMA weights are sampled in one pass.
        camera: azimuth and elevation in degrees, and distance, for which a camera-conditioned
            critic is sampled. Left out: it is sampled without a camera, as it was trained on a
            fraction of its rows.
        precision: precision of the frozen weights, as in a run.
    """

    prompts: tuple[str, ...]
    negative_prompt: str = ""
    model: Model | Prior | str = field(default_factory=Model)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    steps: int = 50
    guidance: float = 5.0
    sampler: Literal["ddim", "ancestral"] = "ddim"
    num_images: int = 4
    views: int = field(default=1, metadata={"minimum": 1})
    image: Path | None = None
    seed: int = field(default=0, metadata={"minimum": 0, "maximum": 2**32 - 1})
    critic: Path | None = None
    generator: Path | None = None
    camera: tuple[float, ...] = ()
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        model = as_model(self.model)
        object.__setattr__(self, "model", model)
        check_control_image(model, has_renders=False)
        if not self.prompts or not all(p.strip() for p in self.prompts):
            raise ValueError("a prompt is missing: give at least one text that is not empty")
        if len(self.camera) not in (0, 3):
            raise ValueError(
                f"camera takes an azimuth, an elevation and a distance, not {self.camera}"
            )
        if self.camera and self.critic is None:
            raise ValueError(f"camera {self.camera} needs a critic: give its run with --critic")
        if self.negative_prompt and self.guidance == 1:
            raise ValueError(
                f"negative_prompt {self.negative_prompt!r} changes nothing at guidance 1: "
                "use another --guidance"
            )
        for name in ("steps", "num_images", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_images % self.views:
            raise ValueError(
                f"num_images must be a multiple of the {self.views} views of an object, "
                f"not {self.num_images}"
            )
        if self.image is not None and self.views == 1:
            raise ValueError(
                f"image {self.image} is one of the views of an object: give their number with "
                "--views"
            )
        if self.views > 1 and self.critic is not None:
            raise ValueError(f"views {self.views} cannot be drawn from a critic: leave out --views")
        if self.generator is not None:
            self._check_one_pass()

    def _check_one_pass(self) -> None:
        """Refuse options of a sampler, which a generator does not have."""
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in _OF_SAMPLER and value != option.default:
                raise ValueError(
                    f"{option.name} {value} changes nothing: a generator draws an image of its "
                    f"prompt in one pass; leave out --{option.name.replace('_', '-')}"
                )


@torch.no_grad()
def sample_x0(
    prior: Prior,
    conditions: Conditions,
    noise: Float[Tensor, "b ..."],
    steps: int,
    guidance: float,
    eta: float = 0.0,
    rng: torch.Generator | None = None,
) -> Float[Tensor, "b ..."]:
    """Sample x0 from a prior.

    Args:
        prior: the denoiser.
        conditions: conditions of each row.
        noise: initial x at the schedule's last time.
        steps: number of steps, each one network call.
        guidance: guidance scale s.
        eta: scale of the noise added at each step, in units of ``posterior_std``. 0: DDIM; 1:
            ancestral sampling.
        rng: generator of that noise.

    Raises:
        ValueError: if ``steps`` is less than 1.

    References:
        Song et al. 2020, arXiv 2010.02502, eq. 12, with the noise of eq. 16.
    """
    times = to_device(prior.schedule.sampling_times(steps), noise.device)
    xt = noise
    for i, time in enumerate(times):
        t = time.expand(len(xt))
        prediction = guided_prediction(prior, xt, t, conditions, guidance)
        if i + 1 == len(times):
            return prediction.x0
        next_t = times[i + 1].expand(len(xt))
        next_alpha, next_sigma = prior.schedule.alpha(next_t), prior.schedule.sigma(next_t)
        # of next_sigma, the part that is new noise and the part that is predicted noise
        new = eta * posterior_std(prior.schedule, next_t, t)
        predicted = (next_sigma**2 - new**2).clamp_min(0).sqrt()
        xt = expand(next_alpha, xt) * prediction.x0 + expand(predicted, xt) * prediction.eps
        if eta > 0:
            xt = xt + expand(new, xt) * torch.randn(xt.shape, generator=rng).to(xt)
    raise ValueError(f"steps must be at least 1, not {steps}")
