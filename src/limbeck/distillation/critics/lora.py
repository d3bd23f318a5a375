"""A critic of low-rank adapters on the prior's own network (ProlificDreamer's choice)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.distillation.critics.base import Critic, CriticConfig, CriticTrainer, CriticTraining, load_trained, require_cameras
from limbeck.distillation.critics.frozen import ConditionTranslator, load_compatible_prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.priors.lora_adapters import DEFAULT_TARGET_MODULES, LoRAAdapters, NetworkPrior
from limbeck.priors.lora_files import read_adapters, read_pose
from limbeck.system.optimizer_state import optimizer_tensors


@dataclass(frozen=True)
class LoRACritic(CriticConfig):
    """Low-rank adapters on the prior's own network, so that its rows ride in the frozen rows' call.

    rank: of the change to each layer, at least 1. learning: how it is trained. start: file or folder of adapters to begin with,
    saved here, by diffusers or by peft. targets: which layers are adapted, by the ends of their names; beside attention's
    projections for instance ff.net.2, conv1, proj_in or attn2.to_k. camera: tell it the camera of each row, for what has sides;
    it then hears the prompt without the words of a side. model: another model's network to adapt, as in --model, of the same
    latents and noise schedule; the prior's own if left out, and else a second network in memory and a second call.
    """

    name = "lora"

    rank: int = 8
    training: CriticTraining = field(default_factory=CriticTraining)
    init_from: Path | None = None
    target_modules: tuple[str, ...] = DEFAULT_TARGET_MODULES
    camera: bool = False
    model: str = ""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")

    def build(self, prior: Prior, start: SetupContext) -> Critic:
        own = load_compatible_prior(self.model, prior, start) if self.model else prior
        if not isinstance(own, NetworkPrior):
            name = f"critic.model {self.model}" if self.model else "this model"
            raise ValueError(
                f"{name} has no network to adapt: with an exact prior use --method.critic exact or smallunet"
            )
        self.training.check_prior(own)
        require_cameras(self.camera, start)
        return _LoRACriticModel(self, own, start, prior)


class _AdaptedPrior(PriorWrapper):
    """A network's prior whose every row passes through the adapters; asked in the terms of the prior it speaks for."""

    def __init__(
        self, speaks_for: Prior, own: Prior, adapters: LoRAAdapters, translated: ConditionTranslator | None
    ):
        super().__init__(speaks_for)
        self.prediction_type, self.call_counter = own.prediction_type, own.call_counter
        self._own, self._adapters, self._translated = own, adapters, translated

    def heard(self, told: Condition) -> Condition:
        """What its network is told of ``told``."""
        told = told.without_view if self._adapters.pose is not None else told
        return (told if self._translated is None else self._translated(told)).with_adapters(
            self._adapters
        )

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        return self._own(xt, t, *map(self.heard, conditions))


class _LoRACriticModel(Critic):
    def __init__(self, spec: LoRACritic, own: NetworkPrior, start: SetupContext, prior: Prior):
        rng = torch.Generator().manual_seed(start.seed)
        self.adapters = LoRAAdapters(
            own.network, own.adapter_rows, spec.rank, rng, own.network_name, spec.target_modules, spec.camera
        )
        if spec.init_from is not None:
            self.adapters.load_pairs(read_adapters(spec.init_from, own.network_name), spec.init_from)
            self.adapters.load_pose(read_pose(spec.init_from), spec.init_from)
        self.camera = spec.camera
        self._own, self._shared = own, own is prior
        self._said = _AdaptedPrior(
            prior, own, self.adapters, None if self._shared else ConditionTranslator(prior, own, start)
        )
        self._trainer = CriticTrainer(
            list(self.adapters.parameters()), spec.training, own.prediction_type, spec.camera
        )

    def prior(self) -> Prior:
        return self._said

    def standalone(self) -> Prior:
        """Without a camera, as some rows were trained, unless a condition brings its own."""
        return _AdaptedPrior(self._own, self._own, self.adapters, None)

    def predict_both(self, prior: Prior, sample: StepInputs, frozen: Sequence[Condition], own: Sequence[Condition]
               ) -> tuple[list[Prediction], list[Prediction]]:  # fmt: skip
        if not self._shared:
            return super().predict_both(prior, sample, frozen, own)
        said = prior(
            sample.xt,
            sample.t,
            *frozen,
            *(self._said.heard(sample.with_pose(told)) for told in own),
        )
        return said[: len(frozen)], said[len(frozen) :]

    def observe(self, sample: StepInputs) -> None:
        pass

    def fit(self, sample: StepInputs) -> dict[str, Tensor]:
        return self._trainer.fit(self._said, sample)

    def tensors(self) -> dict[str, Tensor]:
        memory = {
            f"optimizer.{k}": v for k, v in optimizer_tensors(self._trainer.optimizer).items()
        }
        return {f"adapters.{k}": v for k, v in self.adapters.state_dict().items()} | memory

    def load(self, tensors: dict[str, Tensor]) -> None:
        load_trained(self.adapters, self._trainer, tensors, "adapters.")

    def save(self, folder: Path) -> None:
        self.adapters.save(folder)
