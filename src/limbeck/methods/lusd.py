"""LUSD, localized update score distillation: Chinchuthakun et al. 2025 (arXiv 2503.11054)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_predictions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand
from limbeck.distillation.attention_masks import Unmasked, masked_if_possible
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod, edit_source

_GAIN_END, _GAIN_FALL = 0.01, 0.14  #: the gain falls from their sum to the first
_MIN_STD = 1e-8  #: prompts of the same meaning have a difference of 0


@dataclass(frozen=True)
class LUSD(EditMethod):
    """Localized update SD: g_k d / std(d), d = (1 - c) s M_k e + c (x - x_source).

    e = eps(x_t, t, y) - eps(x_t, t, y_source). The gain g_k falls over the run from .15 to .01. A
    draw of t and eps whose std(e) is below tau is refused: the row does not move in this step. M_k
    goes from 1 to M, the mean of maps of attention to words that the source prompt has not.

    Attributes:
        guidance: s, factor of e.
        pull: c, share of the pull to the source, in [0, 1].
        tau: threshold of std(e) at the start, which falls by a hundredth at each refusal. 0: no
            draw is refused.
        attention_mask: whether there is a mask M; without it M_k = 1.
    """

    name = "lusd"

    guidance: float = 1.0
    pull: float = field(default=0.02, metadata={"minimum": 0, "maximum": 1})
    tau: float = field(default=0.01, metadata={"minimum": 0})
    attention_mask: bool = True

    bibtex = """@inproceedings{chinchuthakun2025lusd,
  title={LUSD: Localized Update Score Distillation for Text-Guided Image Editing},
  author={Chinchuthakun, Worameth and Saengja, Tossaporn and Tritrong, Nontawat and
    Rewatbowornwong, Pitchaporn and Khungurn, Pramook and Suwajanakorn, Supasorn},
  booktitle={ICCV},
  year={2025}
}"""
    passes = "2"
    edit_recipes = {
        "small": {"method": {"guidance": 4.0}, "steps": 80, "lr": 0.2},
        "diffusion": {"steps": 300, "lr": 0.5},
    }

    def __post_init__(self) -> None:
        if "tau" in self.scheduled:
            raise ValueError("tau is the first threshold, which adapts by itself: give one number")

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (1.0,)

    def unused_options(self) -> dict[str, str]:
        instead = "leave it out, --method.guidance is between source and target prompt"
        return {"negative_prompt": instead}

    def init(self, prior: Prior, setup: SetupContext) -> Unmasked:
        super().init(prior, setup)
        if self.attention_mask:
            return masked_if_possible(prior, setup, self.tau)
        return Unmasked(setup.particles, self.tau, setup.x0.device)

    def step_schedule(self, step: int, steps: int) -> float:
        progress = step / max(steps - 1, 1)
        return _GAIN_END + _GAIN_FALL / (1 + math.exp(10 * progress - 5))

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        assert isinstance(state, Unmasked)  # made by init
        source, x = edit_source(inputs), inputs.x0.detach()
        with state.capture(prior) as maps:
            target_hat, source_hat = guided_predictions(
                prior, inputs.xt, inputs.t, (inputs.conditions, 1.0), (source.conditions, 1.0)
            )
        e = target_hat.eps - source_hat.eps
        mask = state.mask_of(inputs.particle, inputs.step / max(inputs.steps - 1, 1))
        d = (1 - self.pull) * self.guidance * mask * e + self.pull * (x - source.x0)
        std_e, std_d = e.flatten(1).std(1), d.flatten(1).std(1)
        gain = self.step_schedule(inputs.step, inputs.steps) / std_d.clamp_min(_MIN_STD)
        accepted = state.accept(inputs.particle, std_e)
        state.add_maps(inputs, accepted, maps)
        return expand(gain * accepted, d) * d
