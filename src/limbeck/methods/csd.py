"""CSD, classifier score distillation: Yu et al. 2023 (arXiv 2310.19415)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import PromptEmbeddings
from limbeck.methods.base import Method


@dataclass(frozen=True)
class CSD(Method[PromptEmbeddings]):
    """eps(x_t, t, y) - eps(x_t, t): the score of the implicit classifier alone, SDS / s as s grows. With a negative text,
    eps(x_t, t, y) - (n eps(x_t, t, y_neg) + (1 - n) eps(x_t, t)), the paper's a = 1, b = -n and c = n - 1.

    negative: a text to move away from; empty for none. first: n at the first step. last: n at the end of the change. over: share
    of the run in which n changes, in a line.
    """

    negative_prompt: str = ""
    negative_start: float = 0.0
    negative_end: float = 1.0
    anneal_end: float = 0.5

    bibtex = """@article{yu2023csd, title={Text-to-3D with Classifier Score Distillation}, author={Yu, Xin and Guo, Yuan-Chen and
  Li, Yangguang and Liang, Ding and Zhang, Song-Hai and Qi, Xiaojuan}, journal={arXiv:2310.19415}, year={2023}}"""
    passes = "2 (3 with a negative text, where n is neither 0 nor 1)"

    def __post_init__(self) -> None:
        if not (0 <= self.negative_start <= 1 and 0 <= self.negative_end <= 1 and 0 <= self.anneal_end <= 1):
            raise ValueError(f"first, last and over lie in [0, 1]: {self}")

    def share(self, step: int, steps: int) -> float:
        """n at ``step`` of ``steps``."""
        gone = min(1.0, step / (self.anneal_end * steps)) if self.anneal_end > 0 else 1.0
        return self.negative_start + gone * (self.negative_end - self.negative_start) if self.negative_prompt else 0.0

    def init(self, prior: Prior, start: SetupContext) -> PromptEmbeddings:
        return PromptEmbeddings(
            prior, start, *([[self.negative_prompt] * start.num_prompts] if self.negative_prompt else [])
        )

    def __call__(
        self, prior: Prior, sample: StepInputs, state: PromptEmbeddings
    ) -> Float[Tensor, "b ..."]:
        n, told = self.share(sample.step, sample.steps), sample.conditions
        nothing = [told.null] if n < 1 else []
        pos, *away = prior(
            sample.xt,
            sample.t,
            told.pos,
            *nothing,
            *(state.for_particles(sample.particle) if n > 0 else []),
        )
        return pos.eps - (away[0].eps if len(away) == 1 else away[0].eps.lerp(away[1].eps, n))
