"""NFSD, noise-free score distillation: Katzir et al. 2023 (arXiv 2310.17590)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_predictions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import PromptEmbeddings
from limbeck.methods.base import Method
from limbeck.system.notices import notify

_NEGATIVE_PROMPT = (
    "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark,"
    " low-resolution, gloomy"
)
_UNREADABLE = (
    "nfsd: this model cannot read the negative prompt of the paper, so there is none; give "
    "--method.negative-prompt in its own words"
)


@dataclass(frozen=True)
class NFSD(Method[PromptEmbeddings]):
    """Noise-free SD: s (eps(x_t, t, y) - eps(x_t, t)) + delta_D.

    delta_D = eps(x_t, t) for t below the threshold, and eps(x_t, t) - eps(x_t, t, y_neg) from there
    on: the direction has no added noise, only the prior's own at small t.

    Attributes:
        guidance: guidance scale s.
        t_threshold: time from which the negative prompt stands for the noise, in [0, 1].
        negative_prompt: y_neg, a description of images that are not real. Empty: delta_D is 0 from
            the threshold on. If it is left out, it is the paper's; empty for a model that cannot
            read this one.
    """

    guidance: float = 7.5
    t_threshold: float = 0.2
    negative_prompt: str | None = None

    bibtex = """@inproceedings{katzir2024nfsd,
  title={Noise-Free Score Distillation},
  author={Katzir, Oren and Patashnik, Or and Cohen-Or, Daniel and Lischinski, Dani},
  booktitle={ICLR},
  year={2024}
}"""
    passes = "3 in one call (2 without a negative prompt)"

    def __post_init__(self) -> None:
        if not 0 <= self.t_threshold <= 1:
            raise ValueError(f"t_threshold must be a time in [0, 1], not {self.t_threshold}")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        # left out, it is the paper's, unless the model cannot read this one
        return (self.guidance, 0.0) if self.negative_prompt == "" else (self.guidance,)

    def init(self, prior: Prior, setup: SetupContext) -> PromptEmbeddings:
        if self.negative_prompt is not None:
            return self._embed(prior, setup, self.negative_prompt)
        try:
            return self._embed(prior, setup, _NEGATIVE_PROMPT)
        except ValueError:
            notify(_UNREADABLE)
            return self._embed(prior, setup, "")

    def _embed(self, prior: Prior, setup: SetupContext, negative: str) -> PromptEmbeddings:
        texts = [[negative] * setup.num_prompts] if negative else []
        return PromptEmbeddings(prior, setup, *texts)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: PromptEmbeddings
    ) -> Float[Tensor, "b ..."]:
        xt, t, y = inputs.xt, inputs.t, inputs.conditions
        # without y_neg the null prompt stands for the noise
        texts = [(y.with_text(text), 1.0) for text in state.for_rows(inputs)]
        noise_term = texts[0] if texts else (y, 0.0)
        eps_hat, noise = guided_predictions(prior, xt, t, (y, self.guidance), noise_term)
        # s (eps(x_t, t, y) - eps(x_t, t)) + eps(x_t, t) is the guided prediction
        above_threshold = expand((t >= self.t_threshold).to(t), xt)
        return eps_hat.eps - above_threshold * noise.eps
