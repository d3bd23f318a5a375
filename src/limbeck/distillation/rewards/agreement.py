"""Whether a picture shows what its prompt says, by the evaluator of the embedded world."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import SetupContext
from limbeck.distillation.rewards.base import Reward, RewardFunction


@dataclass(frozen=True)
class AgreementReward(Reward):
    """log-probability of what the prompt names (object, colour, pattern, background, view), summed, in the decoded picture.

    It judges prompts that name an object of the embedded world. A decoder's pass is paid for every picture.
    """

    def build(self, prior: Prior, start: SetupContext) -> RewardFunction:
        from limbeck.world.pretrained import shared_evaluator
        from limbeck.world.prompt_parser import judgeable_attributes

        lost = [text for text in start.prompts if not judgeable_attributes(text)]
        if lost or not start.prompts or len(prior.shape) != 3:
            reason = (
                f"prompt {lost[0]!r} names no object of the world"
                if lost
                else "there are no pictures with a prompt here"
            )
            raise ValueError(
                f"agreement cannot judge this: {reason}; score with density, saturation or contrast, or your own file"
            )
        evaluator = shared_evaluator(prior.device)
        named = [judgeable_attributes(text) for text in start.prompts]

        def score(
            x0: Float[Tensor, "n ..."], told: Conditions, view: Int[Tensor, "n"]
        ) -> Float[Tensor, "n"]:
            logits = evaluator(torch.cat([prior.decode(part) for part in x0.split(8)]).float())
            prompts = start.prompt_of(view.cpu())
            total = torch.zeros(len(x0), device=x0.device)
            for name, row in logits.items():
                # the index each row's prompt names, 0 and no weight where it names none
                index = to_device(
                    torch.tensor([named[p].get(name, 0) for p in prompts.tolist()]), row.device
                )
                says = to_device(
                    torch.tensor([name in named[p] for p in prompts.tolist()]), row.device
                )
                total = total + says * row.log_softmax(1).gather(1, index[:, None])[:, 0]
            return total

        return score
