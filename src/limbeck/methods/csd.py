"""CSD, classifier score distillation: Yu et al. 2023 (arXiv 2310.19415)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_predictions
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import PromptEmbeddings
from limbeck.methods.base import Method


@dataclass(frozen=True)
class CSD(Method[PromptEmbeddings]):
    """Classifier SD: eps(x_t, t, y) - eps(x_t, t), the score of the implicit classifier.

    It is the limit of SDS / s for large s. With a negative prompt it is eps(x_t, t, y) -
    (n eps(x_t, t, y_neg) + (1 - n) eps(x_t, t)): a = 1, b = -n and c = n - 1 in the paper.

    Attributes:
        negative_prompt: y_neg, one text for all prompts. Empty: none.
        negative_start: weight n of the negative prompt at the first step, in [0, 1].
        negative_end: weight n after the annealing, in [0, 1].
        anneal_end: fraction of the run over which n changes linearly, in [0, 1].
    """

    negative_prompt: str = ""
    negative_start: float = 0.0
    negative_end: float = 1.0
    anneal_end: float = 0.5

    bibtex = """@article{yu2023csd,
  title={Text-to-3D with Classifier Score Distillation},
  author={Yu, Xin and Guo, Yuan-Chen and Li, Yangguang and Liang, Ding and Zhang, Song-Hai and
    Qi, Xiaojuan},
  journal={arXiv:2310.19415},
  year={2023}
}"""
    passes = "2 (3 with a negative prompt, where n is neither 0 nor 1)"

    def __post_init__(self) -> None:
        for name in ("negative_start", "negative_end", "anneal_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")

    def negative_weight(self, step: int, steps: int) -> float:
        """n at ``step`` of ``steps``."""
        if not self.negative_prompt:
            return 0.0
        progress = min(1.0, step / (self.anneal_end * steps)) if self.anneal_end > 0 else 1.0
        return self.negative_start + progress * (self.negative_end - self.negative_start)

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (0.0, 1.0)

    def unused_options(self) -> dict[str, str]:
        own = "use one of the two, --method.negative-prompt or this"
        return {"negative_prompt": own} if self.negative_prompt else {}

    def init(self, prior: Prior, setup: SetupContext) -> PromptEmbeddings:
        negative = [[self.negative_prompt] * setup.num_prompts] if self.negative_prompt else []
        return PromptEmbeddings(prior, setup, *negative)

    def step_schedule(self, step: int, steps: int) -> float:
        return self.negative_weight(step, steps)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: PromptEmbeddings
    ) -> Float[Tensor, "b ..."]:
        n = self.negative_weight(inputs.step, inputs.steps)
        y = inputs.conditions
        null = [(y, 0.0)] if n < 1 else []
        negative = state.for_rows(inputs) if n > 0 else []
        negative_terms = [(y.with_text(text), 1.0) for text in negative]
        terms = [(y, 1.0), *null, *negative_terms]
        pos, *others = guided_predictions(prior, inputs.xt, inputs.t, *terms)
        if len(others) == 1:
            return pos.eps - others[0].eps
        eps_null, eps_neg = others[0].eps, others[1].eps
        return pos.eps - eps_null.lerp(eps_neg, n)
