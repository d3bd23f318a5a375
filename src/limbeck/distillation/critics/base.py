"""What a critic is: a denoiser of the particles themselves (VSD's phi), a prior that is trained or an exact one that is told."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps
from limbeck.system.optimizer_state import load_optimizer

LossTarget = Literal[
    "auto", "eps", "x0", "v", "flow"
]  #: what a loss is of; auto is what the network predicts


@dataclass(frozen=True)
class CriticConfig(abc.ABC):
    """The options of a critic."""

    @abc.abstractmethod
    def build(self, prior: Prior, start: SetupContext) -> Critic:
        """A critic of ``start.particles`` particles; ValueError where this prior cannot have one."""


class Critic(abc.ABC):
    """A critic under training: what it predicts, how it learns, what a checkpoint keeps."""

    camera = False  #: whether it is told the camera of each row

    @abc.abstractmethod
    def prior(self) -> Prior:
        """The critic as a prior like any other."""

    def predict_both(self, prior: Prior, sample: StepInputs, frozen: Sequence[Condition], own: Sequence[Condition]
               ) -> tuple[list[Prediction], list[Prediction]]:  # fmt: skip
        """Answers of the frozen prior and of the critic at the sample's x_t; one network call where they share a network."""
        return prior(sample.xt, sample.t, *frozen), self.prior()(
            sample.xt, sample.t, *map(sample.with_pose, own)
        )

    def standalone(self) -> Prior:
        """The critic as a prior of any rows and texts, to sample from; ValueError where it is none, saying what to look at."""
        return self.prior()

    @abc.abstractmethod
    def observe(self, sample: StepInputs) -> None:
        """Be told the particles of this step before being asked about them."""

    @abc.abstractmethod
    def fit(self, sample: StepInputs) -> dict[str, Tensor]:
        """One training step, or several, on the sample's detached x0."""

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]: ...

    @abc.abstractmethod
    def load(self, tensors: dict[str, Tensor]) -> None: ...

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights for use elsewhere."""


@dataclass(frozen=True)
class CriticTraining:
    """How a learned critic is trained.

    rate: of AdamW without weight decay. steps: per iteration. batch: rows per step, 0 for those of the particles. times: its
    own draw of t, independent of the particles' (ProlificDreamer: all of [0, 1]). unconditional: share of rows trained on the
    null text, which a critic guidance other than 1 needs. kind: of what the loss is the square error; auto is what the critic's
    network predicts. Errors of one x_t are proportional, so another kind is another weight of the times: v of a network that
    predicts eps counts its error 1 / alpha^2 times. camera_dropout: share of rows trained without a camera, of a critic that is
    told it (ProlificDreamer's code: .1).
    """

    lr: float = 1e-3
    steps: int = 1
    batch_size: int = 0
    timesteps: Timesteps = field(default_factory=lambda: UniformTimesteps(0.0, 1.0))
    unconditional_prob: float = 0.0
    loss_target: LossTarget = "auto"
    camera_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.loss_target not in get_args(LossTarget):
            raise ValueError(
                f"kind must be one of {', '.join(get_args(LossTarget))}, not {self.loss_target!r}"
            )
        if not 0 <= self.camera_dropout <= 1:
            raise ValueError(f"camera_dropout is a share in [0, 1], not {self.camera_dropout}")
        if self.lr < 0 or self.steps < 0 or self.batch_size < 0 or not 0 <= self.unconditional_prob <= 1:
            raise ValueError(
                f"rate, steps and batch must not be negative and unconditional lies in [0, 1]: {self}"
            )

    def check_prior(self, prior: Prior) -> None:
        """ValueError where the loss would be infinite: of x0 or v, by a network that predicts eps, where the signal ends."""
        if (
            prior.prediction_type == "eps"
            and self.loss_target not in ("auto", "eps")
            and float(prior.schedule.alpha(torch.ones(1))) == 0
        ):
            raise ValueError(
                f"kind {self.loss_target}: this network predicts eps and its signal ends at t = 1; use auto"
            )


def error_scale(
    kind: PredictionType, alpha: Float[Tensor, "b"], sigma: Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """How large, up to a factor of their own, errors of one x_t are: alpha d x0 = -sigma d eps, so d x0, d v and d flow are
    sigma / alpha, (alpha^2 + sigma^2) / alpha and (alpha + sigma) / alpha times d eps (but for the sign of d x0)."""
    return {"eps": alpha, "x0": sigma, "v": alpha**2 + sigma**2, "flow": alpha + sigma}[kind]


class CriticTrainer:
    """Denoising score matching of some parameters on the particles; ``kind`` is what their network predicts, ``camera`` whether
    they are told the camera."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        how: CriticTraining,
        kind: PredictionType,
        camera: bool = False,
    ):
        self.training, self.prediction_type, self.parameters, self.camera = how, kind, parameters, camera
        self.optimizer = torch.optim.AdamW(parameters, lr=how.lr, weight_decay=0.0)

    def fit(self, prior: Prior, sample: StepInputs) -> dict[str, Tensor]:
        losses = [self._step(prior, sample) for _ in range(self.training.steps)]
        return {"critic": torch.stack(losses).mean()} if losses else {}

    def _step(self, prior: Prior, sample: StepInputs) -> Tensor:
        n, rng = self.training.batch_size or len(sample.x0), sample.rng
        near = partial(to_device, device=sample.x0.device)
        rows = near(
            torch.arange(n)
            if n == len(sample.x0)
            else torch.randint(len(sample.x0), (n,), generator=rng)
        )
        x0 = sample.x0.detach()[rows]
        t = near(
            sample.schedule.snap(self.training.timesteps(sample.step, sample.steps, n, sample.schedule, rng))
        )
        eps = near(torch.randn(x0.shape, generator=rng)).to(x0)
        told = sample.with_pose(sample.conditions.pos)[rows]
        if self.training.unconditional_prob > 0:
            drop = near(torch.rand(n, generator=rng) < self.training.unconditional_prob)
            told = told.where(~drop, sample.with_pose(sample.conditions.null)[rows])
        if self.camera and told.pose is not None and self.training.camera_dropout > 0:
            blind = near(torch.rand(n, generator=rng) < self.training.camera_dropout)
            told = replace(told, pose=told.pose.masked_fill(blind.view(-1, 1, 1), 0.0))
        alpha, sigma = sample.schedule.alpha(t), sample.schedule.sigma(t)
        wanted = self.prediction_type if self.training.loss_target == "auto" else self.training.loss_target
        with torch.enable_grad():
            said = prior(sample.schedule.add_noise(x0, eps, t), t, told)[0]
            target = Prediction(x0, eps).output(self.prediction_type, alpha, sigma)
            error = said.output(self.prediction_type, alpha, sigma) - target
            if wanted != self.prediction_type:
                error = (
                    expand(
                        error_scale(wanted, alpha, sigma) / error_scale(self.prediction_type, alpha, sigma),
                        error,
                    )
                    * error
                )
            loss = error.square().mean()
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def require_cameras(wanted: bool, start: SetupContext) -> None:
    """ValueError where a critic is to be told cameras and there are none."""
    if wanted and not start.has_cameras:
        raise ValueError(
            "camera: what is optimised is a picture and is seen by no camera; leave --method.critic.camera out"
        )


def load_trained(
    module: nn.Module, trainer: CriticTrainer, tensors: dict[str, Tensor], head: str
) -> None:
    """Put back a network and its optimiser from a checkpoint's tensors, those of the network under ``head``."""
    part = lambda h: {k[len(h) :]: v for k, v in tensors.items() if k.startswith(h)}  # noqa: E731
    module.load_state_dict(part(head))
    load_optimizer(trainer.optimizer, part("optimizer."))
