"""iRFDS, inverse rectified flow distillation: the noise of a given picture (Yang et al. 2024, arXiv 2406.03293)."""

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
from limbeck.methods.rfds import RFDS, velocity_gap


@dataclass(frozen=True)
class IRFDS(StatelessMethod):
    """(eps - x) - v(x_t, t, y), descended in eps: the particles are the noise (``--representation noise-map``), x is the picture and
    y the text of ``--source-prompt``.

    guidance: s of the velocity. normal: weight of keeping mean 0 and variance 1, in the proportion of the authors' code.
    """

    guidance: float = 1.0
    noise_reg: float = 1.0

    bibtex = RFDS.bibtex
    optimizes = "noise"
    passes = "1 (2 at another guidance than 1)"

    def __post_init__(self) -> None:
        if self.noise_reg < 0:
            raise ValueError(f"normal must not be negative, not {self.noise_reg}")

    def init(self, prior: Prior, start: SetupContext) -> Stateless:
        if not start.source_prompts:
            raise ValueError(
                "irfds looks for the noise of a picture: say what it shows with --source-prompt; use --representation noise-map"
            )
        return Stateless()

    def __call__(
        self, prior: Prior, sample: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        source, eps = edit_source(sample), sample.x0.detach()
        here = replace(sample, x0=source.x0, eps=eps, conditions=source.conditions)
        gap = velocity_gap(
            guided_prediction(prior, here.xt, here.t, here.conditions, self.guidance), here
        )
        # D / 2 times the gradient of mean^2 + (variance - 1)^2, as the first term is of the mean square over D numbers
        flat = eps.flatten(1)
        mean, variance = flat.mean(1), flat.var(1)
        pull = (
            expand(2 * (variance - 1), eps)
            * (eps - expand(mean, eps))
            * (flat.shape[1] / (flat.shape[1] - 1))
        )
        return -gap + self.noise_reg * (expand(mean, eps) + pull)
