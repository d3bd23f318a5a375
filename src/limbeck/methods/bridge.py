"""SDS-Bridge: McAllister et al. 2024 (arXiv 2406.09417)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import PromptEmbeddings
from limbeck.methods.base import Method


@dataclass(frozen=True)
class Bridge(Method[PromptEmbeddings]):
    """SDS in stage one, then s (eps(x_t, t, y + target_suffix) - eps(x_t, t, y + source_suffix)).

    Attributes:
        guidance: guidance scale s of both stages.
        stage_two_start: fraction of the run at which stage two starts. 0: stage two only; 1: SDS.
        source_suffix: text added to the prompt to describe the faults that stage one leaves.
        target_suffix: text added to the prompt to describe the target.
    """

    guidance: float = 40.0
    stage_two_start: float = 0.5
    source_suffix: str = (
        ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy,"
        " malformed"
    )
    target_suffix: str = ", detailed high resolution, high quality, sharp"

    bibtex = """@inproceedings{mcallister2024bridge,
  title={Rethinking Score Distillation as a Bridge Between Image Distributions},
  author={McAllister, David and Ge, Songwei and Huang, Jia-Bin and Jacobs, David W. and
    Efros, Alexei A. and Holynski, Aleksander and Kanazawa, Angjoo},
  booktitle={NeurIPS},
  year={2024}
}"""
    passes = "2"

    def __post_init__(self) -> None:
        if not 0 <= self.stage_two_start <= 1:
            raise ValueError(
                "stage_two_start must be a fraction of the run in [0, 1], "
                f"not {self.stage_two_start}"
            )

    def init(self, prior: Prior, setup: SetupContext) -> PromptEmbeddings:
        if len(setup.prompts) != setup.num_prompts:
            raise ValueError(
                f"Bridge extends the prompts and needs the texts of all {setup.num_prompts}, "
                f"but the setup has {len(setup.prompts)}"
            )
        source = [prompt + self.source_suffix for prompt in setup.prompts]
        target = [prompt + self.target_suffix for prompt in setup.prompts]
        return PromptEmbeddings(prior, setup, source, target)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: PromptEmbeddings
    ) -> Float[Tensor, "b ..."]:
        xt, t, eps = inputs.xt, inputs.t, inputs.eps
        if inputs.step < self.stage_two_start * inputs.steps:
            return guided_prediction(prior, xt, t, inputs.conditions, self.guidance).eps - eps
        source, target = prior(xt, t, *state.for_particles(inputs.particle))
        return self.guidance * (target.eps - source.eps)
