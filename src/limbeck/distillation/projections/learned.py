"""The projection as a small network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.config.ranges import check_minimums, check_not_negative, refuse_given
from limbeck.diffusion.condition import Condition, Conditions
from limbeck.diffusion.inversion import run_ddim
from limbeck.diffusion.prior import ControlledPrior, Prior
from limbeck.diffusion.schedule import NoiseSchedule
from limbeck.diffusion.tensors import expand
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.projections.base import Projection, Projector
from limbeck.system.optimizer_state import load_optimizer, optimizer_tensors
from limbeck.system.processes import average_gradients


@dataclass(frozen=True)
class LearnedProjection(Projection):
    """A shallow convolutional network, b(x, t) = x + sigma net(x, t), for any prior.

    As in the paper it is trained before the run on images, here on samples of the prior. With
    ``num_images`` 0 it is trained during the run instead, on every unconditional x0 prediction
    that the method makes anyway.

    Attributes:
        num_images: images sampled from the prior to train on. 0: train during the run.
        ddim_steps: DDIM steps by which they are sampled, at least 1.
        pretrain_steps: training steps before the run.
        batch_size: images per training step, at least 1.
        width: channels of the hidden layers, at least 1.
        lr: learning rate of Adam.
    """

    num_images: int = 32
    ddim_steps: int = 20
    pretrain_steps: int = 200
    batch_size: int = 8
    width: int = 32
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_minimums(self, ddim_steps=1, batch_size=1, width=1)
        check_not_negative(self, "num_images", "pretrain_steps", "lr")
        if not self.num_images:
            names = ("pretrain_steps", "ddim_steps", "batch_size")
            refuse_given(self, "with num_images 0: leave it out", *names)

    def build(self, prior: Prior, setup: SetupContext) -> Projector:
        if self.num_images and isinstance(prior, ControlledPrior) and prior.control_kind:
            raise ValueError(
                f"num_images {self.num_images} of the projection are sampled from the model "
                f"alone, but its ControlNet is shown the {prior.control_kind} of renders: use "
                "--method.projection.num-images 0"
            )
        projector = _LearnedProjector(self, prior, setup.seed)
        if self.num_images and self.pretrain_steps and setup.pretrain:
            projector.pretrain(prior, setup)
        return projector


class _ShallowNetwork(nn.Module):
    """Three convolutions over ``[B, C, H, W]``; a vector is one pixel with many channels."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.time = nn.Linear(8, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None  # Conv2d has a bias by default
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None].float() * math.pi * 2.0 ** torch.arange(4, device=t.device)
        embedding = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        scale, shift = embedding[..., None, None].chunk(2, 1)
        h = nn.functional.silu(self.first(x) * (1 + scale) + shift)
        return self.last(nn.functional.silu(self.second(h)))


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


class _LearnedProjector(Projector):
    def __init__(self, options: LearnedProjection, prior: Prior, seed: int):
        self.options = options
        is_vector = len(prior.shape) != 3
        self._shape = (math.prod(prior.shape), 1, 1) if is_vector else tuple(prior.shape)
        with torch.random.fork_rng(devices=[]):  # weights are drawn from the global generator
            torch.manual_seed(seed)
            self.net = _ShallowNetwork(self._shape[0], options.width).to(prior.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=options.lr)

    @torch.no_grad()
    def pretrain(self, prior: Prior, setup: SetupContext) -> None:
        """Train on unconditional samples of the prior.

        Args:
            prior: the denoiser.
            setup: context of the run.
        """
        n, batch, schedule = self.options.num_images, self.options.batch_size, prior.schedule
        rng = torch.Generator().manual_seed(setup.seed + 7_000_003)
        null = prior.condition([""] * n)
        images = self._sample(prior, null, setup.x0, rng)
        for _ in range(self.options.pretrain_steps):
            rows = torch.randint(n, (batch,), generator=rng).to(images.device)
            uniform = torch.rand(batch, generator=rng, dtype=torch.float64)
            t = schedule.snap(0.02 + 0.96 * uniform).to(images.device)
            x = images[rows]
            eps = torch.randn(batch, *x.shape[1:], generator=rng).to(setup.x0)
            target = prior(schedule.add_noise(x, eps, t), t, null[rows])[0].x0
            self._train_step(x, t, target, schedule)

    def _sample(self, prior: Prior, null: Condition, like: Tensor, rng: torch.Generator) -> Tensor:
        """Sample one x0 per row of ``null`` by DDIM, on the device and in the dtype of ``like``."""
        times = prior.schedule.sampling_times(self.options.ddim_steps).to(like.device)
        noise = torch.randn(len(null), *like.shape[1:], generator=rng).to(like)
        row_times = [t.expand(len(null)) for t in times]
        z = run_ddim(prior, noise, Conditions(null, null), row_times, 0.0)
        return prior(z, row_times[-1], null)[0].x0

    def _project(self, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
        # the image may be larger than the prior's default
        size = x.shape[2:] if x.ndim == 4 else self._shape[1:]
        out = self.net(x.float().reshape(len(x), self._shape[0], *size), t).reshape(x.shape)
        return x.float() + expand(schedule.sigma(t), out) * out

    def _train_step(self, x: Tensor, t: Tensor, target: Tensor, schedule: NoiseSchedule) -> Tensor:
        with torch.enable_grad():
            loss = (self._project(x, t, schedule) - target.float()).square().mean()
            loss.backward()
        average_gradients(self.net.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def __call__(self, prior: Prior, inputs: StepInputs) -> Float[Tensor, "b ..."]:
        with torch.no_grad():
            b = self._project(inputs.x0.detach(), inputs.t, inputs.schedule)
        return b.to(inputs.x0)

    def fit(self, inputs: StepInputs, target: Float[Tensor, "b ..."]) -> dict[str, Tensor]:
        if self.options.num_images:
            return {}
        loss = self._train_step(inputs.x0.detach(), inputs.t, target, inputs.schedule)
        return {"projection": loss}

    def tensors(self) -> dict[str, Tensor]:
        net = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        return net | {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizer).items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.net.load_state_dict(_with_prefix(tensors, "net."))
        load_optimizer(self.optimizer, _with_prefix(tensors, "optimizer."))
