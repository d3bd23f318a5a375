"""A discriminator on features of the frozen prior, against samples that the prior draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prior import AttentionPrior, Prior
from limbeck.diffusion.sampling import sample_x0
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.discriminators.base import Discriminator, DiscriminatorConfig
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.priors.trainable_network import condition_features
from limbeck.system.optimizer_state import can_fuse, load_optimizer, optimizer_tensors
from limbeck.system.processes import require_one_process

_TIME_FREQUENCIES = 4  #: pairs of sine and cosine that t is read as


@dataclass(frozen=True)
class FeatureDiscriminator(DiscriminatorConfig):
    """Heads on features of the frozen network, trained against samples that the prior draws.

    The features are the outputs of the self-attention of a U-Net's decoder at x_t, one head on
    each; x_t itself for models without them. The logit is the mean over the heads, 0 at first.
    Every training step draws a sample of the prior for each row, under the prompt of the row.

    Attributes:
        width: channels, or units where x0 is a vector.
        lr: learning rate of Adam, betas (0, .99).
        sampling_steps: DDIM steps to a sample of the prior.
        guidance: guidance scale of these steps.
        timesteps: distribution of t for training, of samples of both kinds.
    """

    width: int = field(default=64, metadata={"minimum": 1})
    lr: float = field(default=1e-3, metadata={"minimum": 0})
    sampling_steps: int = field(default=10, metadata={"minimum": 1})
    guidance: float = 4.0
    timesteps: Timesteps = field(default_factory=lambda: UniformTimesteps(0.02, 0.98))

    @property
    def guidance_scales(self) -> tuple[float, ...]:
        return (self.guidance,)

    def build(self, prior: Prior, setup: SetupContext) -> Discriminator:
        require_one_process("a discriminator of features is trained on all rows")
        return _FeatureDiscriminatorModel(self, prior, setup)


class _Head(nn.Module):
    """A scalar of a feature map or vector and of an embedding, 0 at first.

    Args:
        shape: shape of the feature, channels first.
        embedding: length of the embedding.
        width: channels or units.
    """

    def __init__(self, shape: Sequence[int], embedding: int, width: int):
        super().__init__()
        is_map = len(shape) == 3
        channels, size = (shape[0], 3) if is_map else (math.prod(shape), 1)
        self.first = nn.Conv2d(channels, width, size, padding=size // 2)
        self.embed = nn.Linear(embedding, width)
        self.norm = nn.GroupNorm(1, width)
        self.second = nn.Conv2d(width, width, size, padding=size // 2)
        self.last = nn.Linear(width, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, feature: Float[Tensor, "b ..."], embedding: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b"]:
        # a vector is a map of one pixel
        maps = feature if feature.ndim == 4 else feature.flatten(1)[:, :, None, None]
        hidden = self.first(maps) + self.embed(embedding)[:, :, None, None]
        hidden = F.silu(self.second(F.silu(self.norm(hidden))))
        return self.last(hidden.mean((2, 3)))[:, 0]


class _FeatureDiscriminatorModel(Discriminator):
    def __init__(self, config: FeatureDiscriminator, prior: Prior, setup: SetupContext):
        self._config, self._prior = config, prior
        with torch.no_grad():
            condition, t = prior.condition([""]), torch.full((1,), 0.5)
            x = setup.x0[:1]
            features = self._features(x, to_device(t, x.device), condition)
        embedding = 2 * _TIME_FREQUENCIES + condition_features(condition).shape[1]
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
            torch.manual_seed(int(setup.seed))
            heads = [_Head(f.shape[1:], embedding, config.width) for f in features]
        self.heads = nn.ModuleList(heads).to(x.device)
        parameters = list(self.heads.parameters())
        self._optimizer = torch.optim.Adam(
            parameters, lr=config.lr, betas=(0.0, 0.99), fused=can_fuse(parameters)
        )

    def _features(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], condition: Condition
    ) -> list[Float[Tensor, "b ..."]]:
        prior = self._prior
        if not isinstance(prior, AttentionPrior):
            return [xt.float()]
        with prior.capture_attention() as features:
            prior(xt, t, condition)
        return [feature.float() for feature in features]

    def _logit(
        self, features: list[Float[Tensor, "b ..."]], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b"]:
        frequencies = math.pi * torch.arange(1, _TIME_FREQUENCIES + 1, device=t.device)
        angles = t.float()[:, None] * frequencies
        embedding = torch.cat([angles.sin(), angles.cos(), condition_features(condition)], 1)
        embedding = embedding.to(features[0])
        heads = zip(self.heads, features, strict=True)
        return torch.stack([head(feature, embedding) for head, feature in heads]).mean(0)

    def logit(self, inputs: StepInputs, xt: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
        condition = inputs.conditions.pos
        return self._logit(self._features(xt, inputs.t, condition), inputs.t, condition).to(xt)

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        config, schedule, n = self._config, inputs.schedule, len(inputs.x0)
        rng, fake = inputs.rng.fold("discriminator"), inputs.x0.detach()
        start, *eps = (
            to_device(rng.normal(purpose, *fake.shape[1:]), fake.device).to(fake)
            for purpose in ("sample", "real eps", "fake eps")
        )
        once = replace(inputs.conditions, denoise_steps=1)
        real = sample_x0(self._prior, once, start, config.sampling_steps, config.guidance)
        t = config.timesteps(inputs.step, inputs.steps, n, schedule, rng)
        t = to_device(schedule.snap(t), fake.device).repeat(2)
        xt = schedule.add_noise(torch.cat([real, fake]), torch.cat(eps), t)
        condition = inputs.conditions.pos.concat(inputs.conditions.pos)
        with torch.no_grad():
            features = self._features(xt, t, condition)
        with torch.enable_grad():
            of_real, of_fake = self._logit(features, t, condition).split(n)
            loss = F.softplus(-of_real).mean() + F.softplus(of_fake).mean()
            loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {"discriminator": loss.detach()}

    def tensors(self) -> dict[str, Tensor]:
        optimizer = optimizer_tensors(self._optimizer)
        heads = {f"heads.{k}": v for k, v in self.heads.state_dict().items()}
        return heads | {f"optimizer.{k}": v for k, v in optimizer.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        def below(head: str) -> dict[str, Tensor]:
            return {k.removeprefix(head): v for k, v in tensors.items() if k.startswith(head)}

        self.heads.load_state_dict(below("heads."))
        load_optimizer(self._optimizer, below("optimizer."))
