"""SDEdit, the editing baseline: Meng et al. 2021 (arXiv 2108.01073), algorithm 1 with DDIM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.guidance import guided_prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.state import Stateless
from limbeck.methods.base import EditMethod


def replaced_from(t: float) -> dict[str, Any]:
    """Options of the one step that replaces an image, as in run.yaml.

    Args:
        t: the strength.
    """
    return {"steps": 1, "lr": 1.0, "timesteps": {"name": "fixed", "t": t}}


@dataclass(frozen=True)
class SDEdit(EditMethod):
    """SDEdit: x - x0_hat_K, so that one step of learning rate 1 replaces the image by x0_hat_K.

    x0_hat_K is the result of K guided DDIM steps from x_t. The strength is t, set with
    ``--timesteps fixed``. It needs no source prompt.

    Attributes:
        guidance: guidance scale s of every step.
        denoise_steps: K, DDIM steps at the times t, t (K-1)/K .. t/K.
    """

    name = "sdedit"
    needs_source = False

    denoise_steps: int = 30

    bibtex = """@inproceedings{meng2022sdedit,
  title={SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations},
  author={Meng, Chenlin and He, Yutong and Song, Yang and Song, Jiaming and Wu, Jiajun and
    Zhu, Jun-Yan and Ermon, Stefano},
  booktitle={ICLR},
  year={2022}
}"""
    passes = "2K (K at guidance 1), in K calls"
    edit_recipes = {
        "small": {"method": {"guidance": 5.0}, **replaced_from(0.7)},
        "diffusion": {"method": {"guidance": 7.5}, **replaced_from(0.7)},
        "flux": {"method": {"guidance": 1.0}, **replaced_from(0.7)},
        # from noise alone, as the pipeline samples
        "instructions": {"method": {"guidance": 7.5}, **replaced_from(1.0)},
    }

    def __post_init__(self) -> None:
        if self.denoise_steps < 1:
            raise ValueError(f"denoise_steps must be at least 1, not {self.denoise_steps}")

    def unused_options(self) -> dict[str, str]:
        return {"denoise_steps": "use its own number of them, --method.denoise-steps"}

    def __call__(
        self, prior: Prior, inputs: StepInputs, state: Stateless
    ) -> Float[Tensor, "b ..."]:
        conditions = replace(inputs.conditions, denoise_steps=self.denoise_steps)
        x0_hat = guided_prediction(prior, inputs.xt, inputs.t, conditions, self.guidance).x0
        return inputs.x0.detach() - x0_hat
