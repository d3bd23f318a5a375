"""iRFDS, inverse rectified flow distillation sampling: Yang et al. 2024 (arXiv 2406.03293)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.sampling import sample_x0
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source
from limbeck.methods.rfds import RFDS, velocity_error

#: Times that the authors' code draws for InstaFlow, and its optimizer but for weight decay.
_TIMES = {"name": "uniform", "t_min": 0.2, "t_max": 0.9}
_FROM_THE_CODE: Mapping[str, Any] = {"timesteps": _TIMES, "optimizer": "adam"}
_LARGE: Mapping[str, Any] = {"steps": 1000, "lr": 0.003, **_FROM_THE_CODE}


@dataclass(frozen=True)
class IRFDS(EditMethod):
    """Inverse RFDS: (eps - x) - v(x_t, t, y), descended in the noise eps of a given image x.

    The particles are eps (``--representation noise-map``), y is the text of ``--source-prompt``.
    Their images are sampled from eps with the prompt of the run: edits of x.

    Attributes:
        guidance: guidance scale s of the velocity.
        noise_reg: weight of the regularizer that keeps mean 0 and variance 1, in the proportion of
            the authors' code; at least 0.
        sampling_steps: DDIM steps from eps to an image.
        sampling_guidance: guidance scale of these steps.
    """

    guidance: float = 1.0
    noise_reg: float = 1.0
    sampling_steps: int = field(default=30, metadata={"minimum": 1})
    sampling_guidance: float = 4.0

    bibtex = RFDS.bibtex
    optimizes = "noise"
    passes = "1 (2 at another guidance than 1); 2K for the images, K sampling steps"
    edit_recipes = {
        "small": {"steps": 100, "lr": 0.03, **_FROM_THE_CODE},
        "diffusion": _LARGE,
        "flux": {"method": {"sampling_guidance": 1.0}, **_LARGE},
    }

    def __post_init__(self) -> None:
        if self.noise_reg < 0:
            raise ValueError(f"noise_reg must be at least 0, not {self.noise_reg}")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance, self.sampling_guidance)

    def unused_options(self) -> dict[str, str]:
        return {"noise": "the particles are the noise; leave it out"}

    def check_source(self, source_prompts: tuple[str, ...]) -> None:
        if not source_prompts:
            raise ValueError(
                "irfds optimizes the noise of an image: use limbeck edit IMAGE, or describe it "
                "with --source-prompt, and use --representation noise-map"
            )

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        source, eps = edit_source(inputs), inputs.x0.detach()
        image = replace(inputs, x0=source.x0, eps=eps, conditions=source.conditions)
        v_hat = guided_prediction(prior, image.xt, image.t, image.conditions, self.guidance)
        return self.noise_reg * _regularizer_gradient(eps) - velocity_error(v_hat, image)

    def x0_of_noise(
        self, prior: Prior, noise: Float[Tensor, "b ..."], conditions: Conditions
    ) -> Float[Tensor, "b ..."]:
        return sample_x0(prior, conditions, noise, self.sampling_steps, self.sampling_guidance)


def _regularizer_gradient(eps: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """D / 2 times the gradient of mean^2 + (variance - 1)^2 over the D numbers of a row.

    The factor is that of the first term, whose loss is a mean square over D numbers.
    """
    flat = eps.flatten(1)
    mean, variance, numel = flat.mean(1), flat.var(1), flat.shape[1]
    centered = eps - expand(mean, eps)
    return expand(mean, eps) + expand(2 * (variance - 1), eps) * centered * (numel / (numel - 1))
