"""Base classes of critics (the phi of VSD), their training options and their trainer."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from limbeck.config.scheduled_numbers import Schedulable
from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.distillation.timesteps.base import Timesteps
from limbeck.distillation.timesteps.random import UniformTimesteps

#: Quantity whose square error is the loss. ``auto``: the one that the critic's network predicts.
LossTarget = Literal["auto", "eps", "x0", "v", "flow"]


@dataclass(frozen=True)
class CriticConfig(abc.ABC):
    """Options of a critic."""

    @abc.abstractmethod
    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        """Build the critic of the particles of a run.

        Args:
            prior: the frozen prior of the run.
            setup: particles, prompts and seed of the run.

        Raises:
            ValueError: if this prior cannot have such a critic.
        """


class Critic(abc.ABC):
    """A denoiser of the particles: its predictions, its training and its state.

    Attributes:
        camera: whether it is conditioned on the camera of each row.
    """

    camera = False

    @abc.abstractmethod
    def prior(self) -> Prior:
        """The critic as a prior, for the rows of the current step."""

    def predict_both(
        self,
        prior: Prior,
        inputs: StepInputs,
        prior_conditions: Sequence[Condition],
        critic_conditions: Sequence[Condition],
    ) -> tuple[list[Prediction], list[Prediction]]:
        """Predict with the frozen prior and the critic at x_t.

        It is one network call if they share a network.

        Args:
            prior: the frozen prior.
            inputs: the current step, ``B`` rows.
            prior_conditions: conditions for the prior, ``B`` rows each.
            critic_conditions: conditions for the critic, ``B`` rows each.

        Returns:
            One prediction per prior condition, and one per critic condition.
        """
        return prior(inputs.xt, inputs.t, *prior_conditions), self.prior()(
            inputs.xt, inputs.t, *map(inputs.with_pose, critic_conditions)
        )

    def standalone(self) -> Prior:
        """The critic as a prior of any rows and prompts, for sampling.

        Raises:
            ValueError: if it cannot be sampled; the message says what to use instead.
        """
        return self.prior()

    def observe(self, inputs: StepInputs) -> None:
        """Receive the particles of the step before any prediction. Default: ignore them."""
        return

    @abc.abstractmethod
    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Train on the detached x0 of the current step.

        Returns:
            Metrics to log, by name.
        """

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint, by name."""

    @abc.abstractmethod
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that ``tensors`` returned."""

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write the weights in a format that other programs read."""


@dataclass(frozen=True)
class CriticTraining(Schedulable):
    """How a critic is trained: AdamW without weight decay, on denoising score matching.

    Attributes:
        lr: learning rate of AdamW. None: that of the critic, 3e-3 for a small U-Net, 3e-4 for a
            copy of the network, 1e-3 for others.
        steps: training steps per iteration.
        batch_size: rows per training step; whole groups of views, where rows have them. 0: as many
            as the particles of the iteration.
        timesteps: distribution of t for training, independent of the particles' t (ProlificDreamer:
            uniform on [0, 1]).
        unconditional_prob: probability that a row is trained without its prompt, in [0, 1]; in 3D
            without the view words of its prompt, unless the critic is conditioned on the camera. A
            critic guidance other than 1 needs it.
        loss_target: quantity whose square error is the loss; auto is the one the critic's network
            predicts. Another target is another weight of t: v of a network that predicts eps
            weights its square error by 1 / alpha^2.
        camera_dropout: probability that a row of a camera-conditioned critic is trained without its
            camera, in [0, 1] (ProlificDreamer's code: 0.1); a critic guidance other than 1 needs
            it.
    """

    lr: float | None = None
    steps: int = 1
    batch_size: int = 0
    timesteps: Timesteps = field(default_factory=lambda: UniformTimesteps(0.0, 1.0))
    unconditional_prob: float = 0.0
    loss_target: LossTarget = "auto"
    camera_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.loss_target not in get_args(LossTarget):
            accepted = ", ".join(get_args(LossTarget))
            raise ValueError(f"loss_target must be one of {accepted}, not {self.loss_target!r}")
        for name in ("camera_dropout", "unconditional_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        for name in ("lr", "steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative, not {value}")

    def check_groups(self, size: int, rows: int) -> None:
        """Check that a training step has whole groups of views.

        Args:
            size: views in a group; 1 without groups.
            rows: rows of a step of the run.

        Raises:
            ValueError: if ``batch_size`` rows are no whole groups.
        """
        count = self.batch_size
        if count not in (0, rows) and count % size:
            raise ValueError(
                f"critic.training.batch_size {count} splits groups of {size} views: use a multiple "
                f"of {size}, or 0 for all rows"
            )

    def check_camera(self, has_camera: bool) -> None:
        """Refuse a dropout of the camera in a critic without it.

        Args:
            has_camera: whether the critic is conditioned on the camera.

        Raises:
            ValueError: if there is none, and ``camera_dropout`` is not at its default.
        """
        if not has_camera and self.camera_dropout != CriticTraining.camera_dropout:
            raise ValueError(
                f"training.camera_dropout {self.camera_dropout} has no effect without the camera: "
                "leave it out"
            )

    def check_prior(self, prior: Prior) -> None:
        """Check that the loss is finite for a network like that of ``prior``.

        Raises:
            ValueError: if the network predicts eps, alpha is 0 at t = 1 and the loss is of x0, v or
                flow.
        """
        if prior.prediction_type != "eps" or self.loss_target in ("auto", "eps"):
            return
        if float(prior.schedule.alpha(torch.ones(1))) == 0:
            raise ValueError(
                f"loss_target {self.loss_target} has infinite weight: this network predicts eps "
                "and alpha is 0 at t = 1; use auto"
            )


def unconditional_rows(inputs: StepInputs, camera: bool) -> Condition:
    """The condition that guidance of a critic moves away from, for every row of a step.

    Of images it is the empty prompt. Of a 3D representation the view is what is left out, and the
    prompt stays: the camera is zero for a critic that is conditioned on it (as in the code of ESD),
    and for others the prompt has no view words, if it had any.

    Args:
        inputs: the current step.
        camera: whether the critic is conditioned on the camera.
    """
    pos = inputs.conditions.pos
    if inputs.camera is not None and camera:
        return replace(pos, pose=torch.zeros(len(pos), 4, 4, device=pos.data.device))
    return inputs.conditions.unconditional if pos.view_free is None else pos.without_view


def require_cameras(camera: bool, setup: SetupContext) -> None:
    """Check that a camera-conditioned critic has cameras.

    Raises:
        ValueError: if ``camera`` and the representation is a 2D one.
    """
    if camera and not setup.has_cameras:
        raise ValueError(
            "camera: only renders of a 3D representation have a camera; "
            "leave --method.critic.camera out"
        )


def require_views(critic: Critic, setup: SetupContext) -> None:
    """Check that a critic of a 3D representation gets the view, from the camera or the prompt.

    Raises:
        ValueError: if it does not, so that its prediction without the view is no other.
    """
    has_view_prompts = set(setup.view_prompts) != set(setup.prompts)
    if setup.has_cameras and not critic.camera and not has_view_prompts:
        raise ValueError(
            "this method needs a critic that gets the view: give it the camera with "
            "--method.critic lora --method.critic.camera, or use view prompts"
        )
