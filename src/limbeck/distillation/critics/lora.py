"""A critic of LoRA adapters on the prior's own network (ProlificDreamer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.distillation.critics.base import (
    Critic,
    CriticConfig,
    CriticTraining,
    require_cameras,
)
from limbeck.distillation.critics.frozen import ConditionTranslator, load_compatible_prior
from limbeck.distillation.critics.trained import (
    CriticTrainer,
    TrainedCritic,
    critic_tensors,
    load_critic_tensors,
)
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.priors.lora_adapters import DEFAULT_TARGET_MODULES, LoRAAdapters, NetworkPrior
from limbeck.priors.lora_files import read_adapters, read_pose

_MAX_RANK = 16_384  #: above the width of any layer


@dataclass(frozen=True)
class LoRACritic(CriticConfig):
    """LoRA adapters on the prior's own network; prior and critic share each network call.

    Attributes:
        rank: rank of the adapters, in [1, 16384].
        training: how the adapters are trained.
        init_from: file or folder of adapters to start from, written by Limbeck, diffusers or peft.
        target_modules: layers to adapt, by the ends of their names: besides the projections of
            attention for instance ff.net.2, conv1, proj_in or attn2.to_k.
        camera: condition the critic on the camera of each row, for 3D representations. Its
            prompt then has no view prompt appended.
        model: another model whose network is adapted, as in --model, with the latents and the noise
            schedule of the prior. Empty: the prior's own network. Another network takes memory and
            calls of its own.
    """

    name = "lora"
    path_options: ClassVar = ("model",)

    rank: int = 8
    training: CriticTraining = field(default_factory=CriticTraining)
    init_from: Path | None = None
    target_modules: tuple[str, ...] = DEFAULT_TARGET_MODULES
    camera: bool = False
    model: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= _MAX_RANK:
            bound = "at least 1" if self.rank < 1 else f"at most {_MAX_RANK}"
            raise ValueError(f"rank must be {bound}, not {self.rank}")
        self.training.check_camera(self.camera)

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        base = load_compatible_prior(self.model, prior, setup) if self.model else prior
        if not isinstance(base, NetworkPrior):
            model = f"critic.model {self.model}" if self.model else "this model"
            raise ValueError(
                f"{model} has no network to adapt: with an exact prior use --method.critic exact "
                "or small-unet"
            )
        self.training.check_prior(base)
        require_cameras(self.camera, setup)
        return _LoRACriticModel(self, base, setup, prior)


class _AdaptedPrior(PriorWrapper):
    """A prior whose rows all pass through LoRA adapters.

    Args:
        prior: the prior whose conditions it takes.
        base: the prior whose network is adapted.
        adapters: the adapters.
        translate: maps conditions of ``prior`` to those of ``base``; None if they are the same.
    """

    def __init__(
        self,
        prior: Prior,
        base: Prior,
        adapters: LoRAAdapters,
        translate: ConditionTranslator | None,
    ):
        super().__init__(prior)
        self.prediction_type, self.call_counter = base.prediction_type, base.call_counter
        self._base, self._adapters, self._translate = base, adapters, translate

    def adapt_condition(self, condition: Condition) -> Condition:
        """The condition of the adapted network for a condition of the prior."""
        if self._adapters.pose is not None:
            condition = condition.without_view
        if self._translate is not None:
            condition = self._translate(condition)
        return condition.with_adapters(self._adapters)

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        return self._base(xt, t, *map(self.adapt_condition, conditions))


class _LoRACriticModel(TrainedCritic):
    def __init__(self, config: LoRACritic, base: NetworkPrior, setup: SetupContext, prior: Prior):
        self.adapters = LoRAAdapters(
            base.network,
            base.adapter_rows,
            config.rank,
            torch.Generator().manual_seed(setup.seed),
            base.network_name,
            config.target_modules,
            config.camera,
        )
        if config.init_from is not None:
            pairs = read_adapters(config.init_from, base.network_name)
            self.adapters.load_pairs(pairs, config.init_from)
            self.adapters.load_pose(read_pose(config.init_from), config.init_from)
        self.camera = config.camera
        self._base, self._shares_network = base, base is prior
        translate = None if self._shares_network else ConditionTranslator(prior, base, setup)
        self._prior = _AdaptedPrior(prior, base, self.adapters, translate)
        self._trainer = CriticTrainer(
            list(self.adapters.parameters()), config.training, base.prediction_type, config.camera
        )

    def prior(self) -> Prior:
        return self._prior

    def standalone(self) -> Prior:
        """The critic without a camera, as in camera dropout, unless a condition has a pose."""
        return _AdaptedPrior(self._base, self._base, self.adapters, None)

    def predict_both(
        self,
        prior: Prior,
        inputs: StepInputs,
        prior_conditions: Sequence[Condition],
        critic_conditions: Sequence[Condition],
    ) -> tuple[list[Prediction], list[Prediction]]:
        if not self._shares_network:
            return super().predict_both(prior, inputs, prior_conditions, critic_conditions)
        adapted = [self._prior.adapt_condition(inputs.with_pose(c)) for c in critic_conditions]
        predictions = prior(inputs.xt, inputs.t, *prior_conditions, *adapted)
        return predictions[: len(prior_conditions)], predictions[len(prior_conditions) :]

    def tensors(self) -> dict[str, Tensor]:
        return critic_tensors(self.adapters, self._trainer, "adapters.")

    def load(self, tensors: dict[str, Tensor]) -> None:
        load_critic_tensors(self.adapters, self._trainer, tensors, "adapters.")

    def save(self, folder: Path) -> None:
        """Write ``pytorch_lora_weights.safetensors``, as diffusers does."""
        self.adapters.save(folder)
