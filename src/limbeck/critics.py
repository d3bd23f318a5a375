"""Critics: denoisers of the particles themselves (VSD's phi). A critic is a prior that is trained, or an exact one that is told."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.memory import load_optimizer, optimizer_tensors
from limbeck.method import Sample, Start
from limbeck.prediction import Kind, Prediction
from limbeck.prior import Condition, Meter, Prior
from limbeck.priors.adapters import Adapters, Networked
from limbeck.schedule import NoiseSchedule, expand
from limbeck.timesteps import Timesteps, Uniform


@dataclass(frozen=True)
class CriticSpec(abc.ABC):
    """The options of a critic."""

    @abc.abstractmethod
    def build(self, prior: Prior, start: Start) -> Critic:
        """A critic of ``start.particles`` particles; ValueError where this prior cannot have one."""


class Critic(abc.ABC):
    """A critic under training: what it predicts, how it learns, what a checkpoint keeps."""

    @abc.abstractmethod
    def prior(self) -> Prior:
        """The critic as a prior like any other."""

    def beside(self, prior: Prior, sample: Sample, frozen: Sequence[Condition], own: Sequence[Condition]
               ) -> tuple[list[Prediction], list[Prediction]]:  # fmt: skip
        """Answers of the frozen prior and of the critic at the sample's x_t; one network call where they share a network."""
        return prior(sample.xt, sample.t, *frozen), self.prior()(sample.xt, sample.t, *own)

    @abc.abstractmethod
    def see(self, sample: Sample) -> None:
        """Be told the particles of this step before being asked about them."""

    @abc.abstractmethod
    def fit(self, sample: Sample) -> dict[str, Tensor]:
        """One training step, or several, on the sample's detached x0."""

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]: ...

    @abc.abstractmethod
    def load(self, tensors: dict[str, Tensor]) -> None: ...

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights for use elsewhere."""


@dataclass(frozen=True)
class Learning:
    """How a learned critic is trained.

    rate: of AdamW without weight decay. steps: per iteration. batch: rows per step, 0 for those of the particles. times: its own
    draw
    of t, independent of the particles' (ProlificDreamer: all of [0, 1]). unconditional: share of rows trained on the null text,
    which a
    critic guidance other than 1 needs.
    """

    rate: float = 1e-3
    steps: int = 1
    batch: int = 0
    times: Timesteps = field(default_factory=lambda: Uniform(0.0, 1.0))
    unconditional: float = 0.0

    def __post_init__(self) -> None:
        if self.rate < 0 or self.steps < 0 or self.batch < 0 or not 0 <= self.unconditional <= 1:
            raise ValueError(f"rate, steps and batch must not be negative and unconditional lies in [0, 1]: {self}")


class _Trainer:
    """Denoising score matching of some parameters on the particles, in the parametrisation of the prior."""

    def __init__(self, parameters: list[nn.Parameter], how: Learning, kind: Kind):
        self.how, self.kind, self.parameters = how, kind, parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=how.rate, weight_decay=0.0)

    def fit(self, prior: Prior, sample: Sample, adapted: bool) -> dict[str, Tensor]:
        losses = [self._step(prior, sample, adapted) for _ in range(self.how.steps)]
        return {"critic": torch.stack(losses).mean()} if losses else {}

    def _step(self, prior: Prior, sample: Sample, adapted: bool) -> Tensor:
        n, rng = self.how.batch or len(sample.x0), sample.rng
        rows = torch.arange(n) if n == len(sample.x0) else torch.randint(len(sample.x0), (n,), generator=rng)
        x0 = sample.x0.detach()[rows.to(sample.x0.device)]
        t = sample.schedule.snap(self.how.times(sample.step, sample.steps, n, rng)).to(x0.device)
        eps = torch.randn(x0.shape, generator=rng).to(x0)
        told = sample.told.pos[rows.to(x0.device)]
        if self.how.unconditional > 0:
            drop = (torch.rand(n, generator=rng) < self.how.unconditional).to(x0.device)
            null = sample.told.null[rows.to(x0.device)].data
            told = Condition(torch.where(drop.view(-1, *[1] * (null.ndim - 1)), null, told.data))
        alpha, sigma = sample.schedule.alpha(t), sample.schedule.sigma(t)
        with torch.enable_grad():
            said = prior(sample.schedule.noised(x0, eps, t), t, told.through_adapter() if adapted else told)[0]
            target = Prediction(x0, eps).output(self.kind, alpha, sigma)
            loss = (said.output(self.kind, alpha, sigma) - target).square().mean()
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


@dataclass(frozen=True)
class LowRank(CriticSpec):
    """Low-rank adapters on the prior's own network, so that its rows ride in the frozen rows' call.

    rank: of the change to each attention projection, at least 1.
    """

    rank: int = 8
    learning: Learning = field(default_factory=Learning)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")

    def build(self, prior: Prior, start: Start) -> Critic:
        if not isinstance(prior, Networked):
            raise ValueError("this model has no network to adapt: with an exact prior use --method.critic exact or smallunet")
        return _LowRankCritic(self, prior, start.seed)


class _Adapted:
    """A prior whose every row passes through the adapters."""

    def __init__(self, prior: Prior):
        self._prior = prior
        self.schedule, self.kind, self.shape, self.image_size = prior.schedule, prior.kind, prior.shape, prior.image_size
        self.device, self.meter = prior.device, prior.meter
        self.encode, self.decode, self.condition = prior.encode, prior.decode, prior.condition

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition) -> list[Prediction]:
        return self._prior(xt, t, *(told.through_adapter() for told in conditions))


class _LowRankCritic(Critic):
    def __init__(self, spec: LowRank, prior: Networked, seed: int):
        self._prior = prior
        self.adapters = Adapters(prior.unet, prior.rows, spec.rank, torch.Generator().manual_seed(seed))
        self._trainer = _Trainer(list(self.adapters.parameters()), spec.learning, prior.kind)

    def prior(self) -> Prior:
        return _Adapted(self._prior)

    def beside(self, prior: Prior, sample: Sample, frozen: Sequence[Condition], own: Sequence[Condition]
               ) -> tuple[list[Prediction], list[Prediction]]:  # fmt: skip
        said = prior(sample.xt, sample.t, *frozen, *(told.through_adapter() for told in own))
        return said[: len(frozen)], said[len(frozen) :]

    def see(self, sample: Sample) -> None:
        pass

    def fit(self, sample: Sample) -> dict[str, Tensor]:
        return self._trainer.fit(self._prior, sample, adapted=True)

    def tensors(self) -> dict[str, Tensor]:
        memory = {f"optimizer.{k}": v for k, v in optimizer_tensors(self._trainer.optimizer).items()}
        return {f"adapters.{k}": v for k, v in self.adapters.state_dict().items()} | memory

    def load(self, tensors: dict[str, Tensor]) -> None:
        _load(self.adapters, self._trainer, tensors, "adapters.")

    def save(self, folder: Path) -> None:
        self.adapters.save(folder)


def _load(module: nn.Module, trainer: _Trainer, tensors: dict[str, Tensor], head: str) -> None:
    part = lambda h: {k[len(h) :]: v for k, v in tensors.items() if k.startswith(h)}  # noqa: E731
    module.load_state_dict(part(head))
    load_optimizer(trainer.optimizer, part("optimizer."))


@dataclass(frozen=True)
class SmallUNet(CriticSpec):
    """A small U-Net trained from scratch on the particles alone; it knows no text but the pooled condition. Works on every
    picture prior."""

    width: int = 32
    learning: Learning = field(default_factory=Learning)

    def build(self, prior: Prior, start: Start) -> Critic:
        if len(prior.shape) != 3 or prior.shape[-1] % 4 or prior.shape[-2] % 4:
            raise ValueError(f"a small U-Net needs x0 of [C, H, W] with H and W divisible by 4, not {list(prior.shape)}")
        return _UNetCritic(self, prior, start.seed)


class _SmallPrior:
    """The small network as a prior, in v parametrisation, which is tame at both ends of the schedule."""

    kind: Kind = "v"

    def __init__(self, prior: Prior, width: int):
        from diffusers import UNet2DConditionModel

        self.schedule, self.shape, self.image_size, self.device = prior.schedule, prior.shape, prior.image_size, prior.device
        self.encode, self.decode, self.condition = prior.encode, prior.decode, prior.condition
        self.meter = Meter()
        told = prior.condition([""]).data
        features = told.shape[-1]
        self.net = UNet2DConditionModel(
            sample_size=prior.shape[-1], in_channels=prior.shape[0], out_channels=prior.shape[0], layers_per_block=1,
            block_out_channels=(width, 2 * width, 2 * width), norm_num_groups=8, attention_head_dim=4,
            down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"), cross_attention_dim=features,
        ).to(prior.device)  # fmt: skip

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition) -> list[Prediction]:
        n, b = len(conditions), len(xt)
        self.meter.count(n * b)
        # log-weights of an exact prior's components become shares; token features stay as they are
        text = torch.cat([c.data.exp().unsqueeze(1) if c.data.ndim == 2 else c.data for c in conditions])
        out = self.net(xt.float().repeat(n, 1, 1, 1), (t * 1000).repeat(n), text.to(torch.float32), return_dict=False)[0]
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return [Prediction.of("v", part, xt.float(), alpha, sigma) for part in out.chunk(n)]


class _UNetCritic(Critic):
    def __init__(self, spec: SmallUNet, prior: Prior, seed: int):
        with torch.random.fork_rng(devices=[]):  # diffusers draws weights from the global generator
            torch.manual_seed(seed)
            self._small = _SmallPrior(prior, spec.width)
        self._trainer = _Trainer(list(self._small.net.parameters()), spec.learning, "v")

    def prior(self) -> Prior:
        return self._small

    def see(self, sample: Sample) -> None:
        pass

    def fit(self, sample: Sample) -> dict[str, Tensor]:
        return self._trainer.fit(self._small, sample, adapted=False)

    def tensors(self) -> dict[str, Tensor]:
        memory = {f"optimizer.{k}": v for k, v in optimizer_tensors(self._trainer.optimizer).items()}
        return {f"net.{k}": v for k, v in self._small.net.state_dict().items()} | memory

    def load(self, tensors: dict[str, Tensor]) -> None:
        _load(self._small.net, self._trainer, tensors, "net.")

    def save(self, folder: Path) -> None:
        self._small.net.save_pretrained(folder / "unet")


@dataclass(frozen=True)
class Exact(CriticSpec):
    """The optimal denoiser of the particles of a prompt, in closed form: nothing is trained.

    Exact where every particle is drawn at every step; a particle that is not drawn counts where it was last seen.
    """

    def build(self, prior: Prior, start: Start) -> Critic:
        return _ExactCritic(prior, start)


class _ExactCritic(Critic):
    def __init__(self, prior: Prior, start: Start):
        self._prior, self.x0 = prior, start.x0.clone()
        self._per = start.particles // start.prompts
        self._view: Int[Tensor, "b"] = torch.arange(start.particles)

    def see(self, sample: Sample) -> None:
        self._view = sample.view.to(self.x0.device)
        self.x0[self._view] = sample.x0.detach()

    def prior(self) -> Prior:
        return _OfParticles(self._prior, self.x0, self._view, self._per)

    def fit(self, sample: Sample) -> dict[str, Tensor]:
        return {}

    def tensors(self) -> dict[str, Tensor]:
        return {"x0": self.x0}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.x0 = tensors["x0"].to(self.x0)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({"x0": self.x0.cpu().contiguous()}, folder / "particles.safetensors")


class _OfParticles:
    """q_t of the particles: x0_hat = sum_j r_j x_j over the particles of the row's prompt, r = softmax(-|x_t - alpha x_j|^2 / 2
    sigma^2)."""

    def __init__(self, prior: Prior, x0: Tensor, view: Tensor, per: int):
        self.schedule: NoiseSchedule = prior.schedule
        self.kind, self.shape, self.image_size, self.device = prior.kind, prior.shape, prior.image_size, prior.device
        self.encode, self.decode, self.condition = prior.encode, prior.decode, prior.condition
        self.meter = Meter()
        self._x0, self._view, self._per = x0, view, per

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition) -> list[Prediction]:
        alpha, sigma = self.schedule.alpha(t).to(xt), self.schedule.sigma(t).to(xt)
        groups = self._x0.to(xt).flatten(1).unflatten(0, (-1, self._per))[self._view // self._per]
        log = -(xt.flatten(1)[:, None] - alpha[:, None, None] * groups).square().sum(-1) / (2 * sigma[:, None] ** 2)
        x0 = (log.softmax(1)[..., None] * groups).sum(1).view_as(xt)
        said = Prediction(x0, (xt - expand(alpha, x0) * x0) / expand(sigma, x0))
        return [said for _ in conditions]
