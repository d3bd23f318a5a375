"""NFSD, noise-free score distillation: Katzir et al. 2023 (arXiv 2310.17590)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import PromptEmbeddings
from limbeck.methods.base import Method


@dataclass(frozen=True)
class NFSD(Method[PromptEmbeddings]):
    """s (eps(x_t, t, y) - eps(x_t, t)) + delta_D, where delta_D = eps(x_t, t) before the threshold, and eps(x_t, t) -
    eps(x_t, t, y_neg) from it on: no noise that was added is in the direction but the prior's own at small t.

    guidance: s. threshold: time from which the negative text stands for the noise. negative: the paper's text for what is
    not real; empty for none, so that delta_D is 0 from the threshold on.
    """

    guidance: float = 7.5
    t_threshold: float = 0.2
    negative_prompt: str = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"

    bibtex = """@inproceedings{katzir2024nfsd, title={Noise-Free Score Distillation}, author={Katzir, Oren and Patashnik, Or and
  Cohen-Or, Daniel and Lischinski, Dani}, booktitle={ICLR}, year={2024}}"""
    passes = "3 in one call (2 without a negative text)"

    def __post_init__(self) -> None:
        if not 0 <= self.t_threshold <= 1:
            raise ValueError(f"threshold is a time in [0, 1], not {self.t_threshold}")

    def init(self, prior: Prior, start: SetupContext) -> PromptEmbeddings:
        return PromptEmbeddings(
            prior, start, *([[self.negative_prompt] * start.num_prompts] if self.negative_prompt else [])
        )

    def __call__(
        self, prior: Prior, sample: StepInputs, state: PromptEmbeddings
    ) -> Float[Tensor, "b ..."]:
        told = sample.conditions
        null, pos, *neg = prior(
            sample.xt, sample.t, told.null, told.pos, *state.for_particles(sample.particle)
        )
        late = expand((sample.t >= self.t_threshold).to(sample.t), null.eps)
        noise = neg[0].eps if neg else null.eps
        return self.guidance * (pos.eps - null.eps) + null.eps - late * noise
