"""iRFDS, inverse rectified flow distillation sampling: Yang et al. 2024 (arXiv 2406.03293)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod, edit_source
from limbeck.methods.rfds import RFDS, velocity_error


@dataclass(frozen=True)
class IRFDS(StatelessMethod):
    """Inverse RFDS: (eps - x) - v(x_t, t, y), descended in the noise eps of a given image x.

    The particles are eps (``--representation noise-map``), y is the text of ``--source-prompt``.

    Attributes:
        guidance: guidance scale s of the velocity.
        noise_reg: weight of the regularizer that keeps mean 0 and variance 1, in the proportion of
            the authors' code; at least 0.
    """

    guidance: float = 1.0
    noise_reg: float = 1.0

    bibtex = RFDS.bibtex
    optimizes = "noise"
    passes = "1 (2 at another guidance than 1)"

    def __post_init__(self) -> None:
        if self.noise_reg < 0:
            raise ValueError(f"noise_reg must be at least 0, not {self.noise_reg}")

    def init(self, prior: Prior, setup: SetupContext) -> Stateless:
        if not setup.source_prompts:
            raise ValueError(
                "irfds optimizes the noise of an image: describe the image with --source-prompt, "
                "and use --representation noise-map"
            )
        return Stateless()

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        source, eps = edit_source(inputs), inputs.x0.detach()
        image = replace(inputs, x0=source.x0, eps=eps, conditions=source.conditions)
        v_hat = guided_prediction(prior, image.xt, image.t, image.conditions, self.guidance)
        return self.noise_reg * _regularizer_gradient(eps) - velocity_error(v_hat, image)


def _regularizer_gradient(eps: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """D / 2 times the gradient of mean^2 + (variance - 1)^2 over the D numbers of a row.

    The factor is that of the first term, whose loss is a mean square over D numbers.
    """
    flat = eps.flatten(1)
    mean, variance, numel = flat.mean(1), flat.var(1), flat.shape[1]
    centered = eps - expand(mean, eps)
    return expand(mean, eps) + expand(2 * (variance - 1), eps) * centered * (numel / (numel - 1))
