"""MSD, mean-shift distillation: Thamizharasan et al. 2025 (arXiv 2502.15989)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.config.ranges import check_minimums
from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.inversion import posterior_std
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import StatelessMethod


@dataclass(frozen=True)
class MSD(StatelessMethod):
    """Mean-shift distillation: (x - y) / h, y drawn from p(y) N(y; x, h^2), with h = lambda_t.

    The product is the posterior of x_0 at x_t = alpha_t x, without added noise. Its mean is
    x0_hat(alpha_t x, t), one prediction; its samples are those of the reverse diffusion from there.

    Attributes:
        guidance: guidance scale s of every prediction.
        sampler_steps: K. 1: y is its mean; more: y is drawn by K stochastic DDIM steps from t to 0.
    """

    name = "msd"

    guidance: float = 7.5
    sampler_steps: int = 1

    bibtex = """@article{thamizharasan2025msd,
  title={Mean-Shift Distillation for Diffusion Mode Seeking},
  author={Thamizharasan, Vikas and Chatzis, Nikitas and Georgiev, Iliyan and Fisher, Matthew and
    Liu, Difan and Zhao, Nanxuan and Kalogerakis, Evangelos and Luk{\\'a}{\\v{c}}, Michal},
  journal={arXiv:2502.15989},
  year={2025}
}"""
    passes = "2K (K at guidance 1), in K calls"

    def __post_init__(self) -> None:
        check_minimums(self, sampler_steps=1)

    def unused_options(self) -> dict[str, str]:
        unused = {"noise": "it adds none to x; leave it out"}
        own = "it draws y by steps of its own, --method.sampler-steps"
        return {**unused, "denoise_steps": own} if self.sampler_steps > 1 else unused

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        x, schedule = inputs.x0.detach(), inputs.schedule
        alpha, sigma = (expand(f(inputs.t), x) for f in (schedule.alpha, schedule.sigma))
        if self.sampler_steps > 1:
            return alpha / sigma * (x - self.sample(prior, inputs, alpha * x))
        # x - x0_hat(alpha x) is lambda eps_hat(alpha x): no division by an alpha_t that may be 0
        y = inputs.conditions
        return guided_prediction(prior, alpha * x, inputs.t, y, self.guidance).eps

    def sample(
        self, prior: Prior, inputs: StepInputs, xt: Float[Tensor, "b ..."]
    ) -> Float[Tensor, "b ..."]:
        """Draw y from the posterior of x_0 at x_t, by the reverse diffusion at the times t k / K.

        Args:
            prior: the frozen prior.
            inputs: the current step.
            xt: x_t of each row.
        """
        schedule, count = inputs.schedule, self.sampler_steps
        for k in range(count, 0, -1):
            t = schedule.snap(inputs.t * k / count)
            predicted = guided_prediction(prior, xt, t, inputs.conditions, self.guidance)
            if k == 1:
                break
            s = schedule.snap(inputs.t * (k - 1) / count)
            std, sigma = posterior_std(schedule, s, t), schedule.sigma(s)
            kept = (sigma**2 - std**2).clamp_min(0).sqrt()
            new = to_device(inputs.rng.normal(f"sampler {k}", *xt.shape[1:]), xt.device).to(xt)
            xt = expand(schedule.alpha(s), xt) * predicted.x0 + expand(kept, xt) * predicted.eps
            xt = xt + expand(std, xt) * new
        return predicted.x0
