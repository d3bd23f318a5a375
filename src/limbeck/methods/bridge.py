"""SDS-Bridge: McAllister et al. 2024, Rethinking Score Distillation as a Bridge Between Image Distributions (arXiv 2406.09417)."""

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
    """SDS at first, then s (eps(x_t, t, y + target) - eps(x_t, t, y + source)), source the words for what SDS gets wrong.

    guidance: s of both stages. switch: share of the run after which the bridge begins. source: what is added to the prompt to
    name the faults of the first stage. target: what is added to name what is wanted.
    """

    guidance: float = 40.0
    stage_two_start: float = 0.5
    source_suffix: str = ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
    target_suffix: str = ", detailed high resolution, high quality, sharp"

    bibtex = """@inproceedings{mcallister2024bridge, title={Rethinking Score Distillation as a Bridge Between Image Distributions},
  author={McAllister, David and Ge, Songwei and Huang, Jia-Bin and Jacobs, David W. and Efros, Alexei A. and Holynski, Aleksander
  and Kanazawa, Angjoo}, booktitle={NeurIPS}, year={2024}}"""
    passes = "2"

    def __post_init__(self) -> None:
        if not 0 <= self.stage_two_start <= 1:
            raise ValueError(f"switch is a share of the run in [0, 1], not {self.stage_two_start}")

    def init(self, prior: Prior, start: SetupContext) -> PromptEmbeddings:
        if len(start.prompts) != start.num_prompts:
            raise ValueError(
                f"Bridge adds words to the prompts and needs all {start.num_prompts}, but is given {len(start.prompts)}"
            )
        return PromptEmbeddings(
            prior,
            start,
            *([text + more for text in start.prompts] for more in (self.source_suffix, self.target_suffix)),
        )

    def __call__(
        self, prior: Prior, sample: StepInputs, state: PromptEmbeddings
    ) -> Float[Tensor, "b ..."]:
        if sample.step < self.stage_two_start * sample.steps:
            return (
                guided_prediction(prior, sample.xt, sample.t, sample.conditions, self.guidance).eps
                - sample.eps
            )
        source, target = prior(sample.xt, sample.t, *state.for_particles(sample.particle))
        return self.guidance * (target.eps - source.eps)
