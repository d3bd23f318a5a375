"""The projection as a small network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.inversion import ddim_trajectory
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.projections.base import Projection, Projector
from limbeck.system.optimizer_state import load_optimizer, optimizer_tensors


@dataclass(frozen=True)
class LearnedProjection(Projection):
    """A shallow convolutional network, x + sigma net(x, t), on any prior. As in the paper it learns before the run, on real
    pictures, here the prior's own; or, without pictures, beside the run and from every x0_hat(x_t) that is asked for anyway.

    pictures: that the prior makes to learn from; 0 to learn beside the run. strides: of the DDIM that makes them. before: steps
    of learning from them. batch: pictures per step. width: channels. rate: of Adam.
    """

    pictures: int = 32
    strides: int = 20
    before: int = 200
    batch: int = 8
    width: int = 32
    rate: float = 1e-3

    def __post_init__(self) -> None:
        if (
            self.pictures < 0
            or self.before < 0
            or min(self.strides, self.batch, self.width) < 1
            or not self.rate >= 0
        ):
            raise ValueError(
                f"strides, batch and width must be at least 1 and the others not negative: {self}"
            )

    def build(self, prior: Prior, start: SetupContext) -> Projector:
        learner = _Learner(self, prior, start.seed)
        if self.pictures and self.before:
            learner.study(prior, start)
        return learner


class _Shallow(nn.Module):
    """Three convolutions over ``[B, C, H, W]``; what is no picture is one point of many channels."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.time = nn.Linear(8, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None  # by default there is one
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t[:, None].float() * math.pi * 2.0 ** torch.arange(4, device=t.device)
        scale, shift = self.time(torch.cat([waves.sin(), waves.cos()], 1))[..., None, None].chunk(
            2, 1
        )
        h = nn.functional.silu(self.first(x) * (1 + scale) + shift)
        return self.last(nn.functional.silu(self.second(h)))


class _Learner(Projector):
    def __init__(self, spec: LearnedProjection, prior: Prior, seed: int):
        self.spec = spec
        flat = len(prior.shape) != 3
        self._shape = (math.prod(prior.shape), 1, 1) if flat else tuple(prior.shape)
        with torch.random.fork_rng(devices=[]):  # weights are drawn from the global generator
            torch.manual_seed(seed)
            self.net = _Shallow(self._shape[0], spec.width).to(prior.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=spec.rate)

    @torch.no_grad()
    def study(self, prior: Prior, start: SetupContext) -> None:
        """Learn from pictures that the prior makes of nothing said."""
        spec, schedule, like = self.spec, prior.schedule, start.x0
        rng = torch.Generator().manual_seed(start.seed + 7_000_003)
        null = prior.condition([""] * spec.pictures)
        told, ladder = Conditions(null, null), schedule.sampling_times(spec.strides).to(like.device)
        noise = torch.randn(spec.pictures, *like.shape[1:], generator=rng).to(like)
        z = ddim_trajectory(prior, noise, told, [t.expand(spec.pictures) for t in ladder], 0.0)
        made = prior(z, ladder[-1].expand(spec.pictures), null)[0].x0
        for _ in range(spec.before):
            rows = torch.randint(spec.pictures, (spec.batch,), generator=rng).to(like.device)
            t = schedule.snap(
                0.02 + 0.96 * torch.rand(spec.batch, generator=rng, dtype=torch.float64)
            ).to(like.device)
            eps = torch.randn(spec.batch, *like.shape[1:], generator=rng).to(like)
            self._learn(
                made[rows],
                t,
                prior(schedule.add_noise(made[rows], eps, t), t, null[rows])[0].x0,
                schedule,
            )

    def _b(self, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        rest = (
            x.shape[2:] if x.ndim == 4 else self._shape[1:]
        )  # a picture may be larger than the prior's own
        out = self.net(x.float().reshape(len(x), self._shape[0], *rest), t).reshape(x.shape)
        return x.float() + expand(schedule.sigma(t), out) * out

    def _learn(self, x: Tensor, t: Tensor, seen: Tensor, schedule: NoiseSchedule) -> Tensor:
        with torch.enable_grad():
            loss = (self._b(x, t, schedule) - seen.float()).square().mean()
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def __call__(self, prior: Prior, sample: StepInputs) -> Float[Tensor, "b ..."]:
        with torch.no_grad():
            return self._b(sample.x0.detach(), sample.t, sample.schedule).to(sample.x0)

    def fit(self, sample: StepInputs, seen: Float[Tensor, "b ..."]) -> dict[str, Tensor]:
        if self.spec.pictures:
            return {}
        return {"projection": self._learn(sample.x0.detach(), sample.t, seen, sample.schedule)}

    def tensors(self) -> dict[str, Tensor]:
        memory = {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}
        return {f"net.{k}": v for k, v in self.net.state_dict().items()} | memory

    def load(self, tensors: dict[str, Tensor]) -> None:
        part = lambda head: {k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)}  # noqa: E731
        self.net.load_state_dict(part("net."))
        load_optimizer(self.optimizer, part("optimizer."))
