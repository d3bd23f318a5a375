"""SDS-Bridge: McAllister et al. 2024 (arXiv 2406.09417)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction, guided_predictions
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import PromptEmbeddings
from limbeck.methods.base import Method
from limbeck.system.notices import notify

_SOURCE_SUFFIX = (
    ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy,"
    " malformed"
)
_TARGET_SUFFIX = ", detailed high resolution, high quality, sharp"
_UNREADABLE = (
    "this model cannot read the suffixes of the paper, so stage two goes from the empty "
    "prompt to the prompt, as CSD; give --method.source-suffix and --method.target-suffix in its "
    "own words"
)


@dataclass(frozen=True)
class Bridge(Method[PromptEmbeddings]):
    """SDS in stage one, then s (eps(x_t, t, y + target_suffix) - eps(x_t, t, y + source_suffix)).

    With a source prompt it edits: stage two goes from it to the prompt, with suffixes if given.

    Attributes:
        guidance: guidance scale s of both stages.
        stage_two_start: fraction of the run at which stage two starts. 0: stage two only; 1: SDS.
        source_suffix: text added to the prompt to describe the faults that stage one leaves.
        target_suffix: text added to the prompt to describe the target. If both are left out, they
            are the paper's; for a model that cannot read these the source is the empty prompt and
            the target is the prompt.
    """

    guidance: float = 40.0
    stage_two_start: float = 0.5
    source_suffix: str | None = None
    target_suffix: str | None = None

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
            at = self.stage_two_start
            raise ValueError(f"stage_two_start must be a fraction of the run in [0, 1], not {at}")

    def unused_options(self) -> dict[str, str]:
        instead = "stage two has a text in its place, --method.source-suffix: change that one"
        return {"negative_prompt": instead} if self.stage_two_start < 1 else {}

    def init(self, prior: Prior, setup: SetupContext) -> PromptEmbeddings:
        sources = setup.extended_source_prompts if setup.source_prompts else setup.extended_prompts
        own = self.source_suffix, self.target_suffix
        papers = own == (None, None) and not setup.source_prompts
        source, target = (_SOURCE_SUFFIX, _TARGET_SUFFIX) if papers else (s or "" for s in own)
        try:
            return PromptEmbeddings(prior, setup, sources(source), setup.extended_prompts(target))
        except ValueError:
            if not papers:
                raise
            notify(_UNREADABLE)
            return PromptEmbeddings(prior, setup, setup.extended_prompts(""))

    def step_schedule(self, step: int, steps: int) -> float:
        return float(step < self.stage_two_start * steps)

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: PromptEmbeddings
    ) -> Float[Tensor, "b ..."]:
        xt, t, y = inputs.xt, inputs.t, inputs.conditions
        if inputs.step < self.stage_two_start * inputs.steps:
            return guided_prediction(prior, xt, t, y, self.guidance).eps - inputs.eps
        y = state.transition(inputs)
        eps_source, eps_target = guided_predictions(prior, xt, t, (y, 0.0), (y, 1.0))
        return self.guidance * (eps_target.eps - eps_source.eps)
