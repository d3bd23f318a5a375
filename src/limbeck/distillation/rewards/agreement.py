"""Agreement of image and prompt as the reward, judged by the evaluator of the embedded world."""

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
from limbeck.distillation.rewards.image_statistics import DECODE_BATCH_SIZE


@dataclass(frozen=True)
class AgreementReward(Reward):
    """Summed log-probability of what the prompt names, in the decoded image.

    The attributes are object, color, pattern, background and view of the embedded world; the prompt
    must name an object of it. Each image costs a pass of the decoder.
    """

    def build(self, prior: Prior, setup: SetupContext) -> RewardFunction:
        from limbeck.world.pretrained import shared_evaluator
        from limbeck.world.prompt_parser import judgeable_attributes

        named = [judgeable_attributes(prompt) for prompt in setup.prompts]
        advice = "use the reward density, saturation or contrast, or FILE.py:Class"
        for prompt, attributes in zip(setup.prompts, named, strict=True):
            if not attributes:
                raise ValueError(
                    f"agreement cannot judge prompt {prompt!r}: it names no object of the embedded "
                    f"world; {advice}"
                )
        if not setup.prompts or len(prior.shape) != 3:
            raise ValueError(f"agreement needs images with a prompt, and there are none; {advice}")
        evaluator = shared_evaluator(prior.device)

        def reward(
            x0: Float[Tensor, "n ..."], conditions: Conditions, particle: Int[Tensor, "n"]
        ) -> Float[Tensor, "n"]:
            batches = x0.split(DECODE_BATCH_SIZE)
            logits = evaluator(torch.cat([prior.decode(batch) for batch in batches]).float())
            attributes = [named[i] for i in setup.prompt_index(particle.cpu()).tolist()]
            total = torch.zeros(len(x0), device=x0.device)
            for name, values in logits.items():
                # the value each row's prompt names; index 0 with weight 0 if it names none
                index = torch.tensor([row.get(name, 0) for row in attributes])
                weight = torch.tensor([name in row for row in attributes])
                index, weight = to_device(index, values.device), to_device(weight, values.device)
                log_prob = values.log_softmax(1).gather(1, index[:, None])[:, 0]
                total = total + weight * log_prob
            return total

        return reward
