"""Critics whose weights are trained: the trainer, the base class, and their checkpoints."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import Prior
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.critics.base import Critic, CriticTraining, unconditional_rows
from limbeck.distillation.inputs import StepInputs
from limbeck.distillation.timesteps.base import training_progress
from limbeck.system.optimizer_state import can_fuse, load_optimizer, optimizer_tensors
from limbeck.system.processes import average_gradients
from limbeck.system.random import RowRandom


def error_scale(
    prediction_type: PredictionType, alpha: Float[Tensor, "b"], sigma: Float[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Return the size of errors of a prediction type, up to a factor common to all types.

    At one x_t, alpha d x0 = -sigma d eps. So d x0, d v and d flow are sigma / alpha,
    (alpha^2 + sigma^2) / alpha and (alpha + sigma) / alpha times d eps, up to the sign of d x0.

    Args:
        prediction_type: what the errors are of.
        alpha: signal level of each row.
        sigma: noise level of each row.
    """
    scales = {"eps": alpha, "x0": sigma, "v": alpha**2 + sigma**2, "flow": alpha + sigma}
    return scales[prediction_type]


class CriticTrainer:
    """Denoising score matching on the particles.

    Args:
        parameters: what is trained.
        training: options.
        prediction_type: what the network predicts.
        camera: whether it is conditioned on the camera.
        default_lr: learning rate if the options have none.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        training: CriticTraining,
        prediction_type: PredictionType,
        camera: bool = False,
        default_lr: float = 1e-3,
    ):
        self.training, self.prediction_type = training, prediction_type
        self._options = training
        self.parameters, self.camera = parameters, camera
        lr = default_lr if training.lr is None else training.lr
        self.optimizer = torch.optim.AdamW(
            parameters, lr=lr, weight_decay=0.0, fused=can_fuse(parameters)
        )

    def fit(self, prior: Prior, inputs: StepInputs, as_drawn: bool = False) -> dict[str, Tensor]:
        """Take the training steps of one iteration.

        Args:
            prior: the critic as a prior.
            inputs: the current step.
            as_drawn: train at the t and towards the eps of the inputs, not at new ones.

        Returns:
            The mean loss as ``critic``; nothing if there are no steps.
        """
        self.training = self._options.at(training_progress(inputs.step, inputs.steps))
        if "lr" in self._options.scheduled and self.training.lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.training.lr
        losses = [
            self._step(prior, inputs, inputs.rng.fold(f"critic {i}"), as_drawn)
            for i in range(self.training.steps)
        ]
        return {"critic": torch.stack(losses).mean()} if losses else {}

    def _step(self, prior: Prior, inputs: StepInputs, rng: RowRandom, as_drawn: bool) -> Tensor:
        n, device, schedule = len(inputs.x0), inputs.x0.device, inputs.schedule
        rows = torch.arange(n)
        self.training.check_groups(rng.group_size, n)
        if self.training.batch_size not in (0, n):
            rows = _draw_rows(self.training.batch_size, n, rng)
            n, rng = len(rows), rng.repeat(rows)
        rows = to_device(rows, device)
        x0 = inputs.x0.detach()[rows]
        if as_drawn:
            t, eps = inputs.t[rows], inputs.eps[rows]
        else:
            t = self.training.timesteps(inputs.step, inputs.steps, n, schedule, rng)
            t = to_device(schedule.snap(t), device)
            eps = to_device(rng.normal("eps", *x0.shape[1:]), device).to(x0)
        condition = self._dropout(inputs, rows, rng)
        with torch.enable_grad():
            prediction = prior(schedule.add_noise(x0, eps, t), t, condition)[0]
            loss = self._loss(prediction, Prediction(x0, eps), schedule.alpha(t), schedule.sigma(t))
            loss.backward()
        average_gradients(self.parameters)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _dropout(self, inputs: StepInputs, rows: Tensor, rng: RowRandom) -> Condition:
        """Conditions of ``rows``, some of them without their text, some without their camera."""
        device = inputs.x0.device
        condition = inputs.with_pose(inputs.conditions.pos)[rows]
        if self.training.unconditional_prob > 0:
            drop = rng.per_group.uniform("no text") < self.training.unconditional_prob
            # what guidance of a critic with cameras leaves out is the camera, dropped below
            null = inputs.conditions.unconditional
            if not self.camera:
                null = unconditional_rows(inputs, camera=False)
            null = inputs.with_pose(null)[rows]
            condition = condition.where(~to_device(drop, device), null)
        if self.camera and condition.pose is not None and self.training.camera_dropout > 0:
            drop = rng.per_group.uniform("no camera") < self.training.camera_dropout
            drop = to_device(drop, device).view(-1, 1, 1)
            condition = replace(condition, pose=condition.pose.masked_fill(drop, 0.0))
        return condition

    def _loss(
        self, prediction: Prediction, target: Prediction, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        """Mean square error of the loss target.

        It is the network's own error times a weight: no prediction is divided by alpha.
        """
        own, loss_target = self.prediction_type, self.training.loss_target
        error = prediction.to_output(own, alpha, sigma) - target.to_output(own, alpha, sigma)
        if loss_target != "auto" and loss_target != own:
            ratio = error_scale(loss_target, alpha, sigma) / error_scale(own, alpha, sigma)
            error = expand(ratio, error) * error
        return error.square().mean()


class TrainedCritic(Critic):
    """A critic whose weights are trained. Subclasses set ``_trainer``."""

    _trainer: CriticTrainer

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        return self._trainer.fit(self.prior(), inputs)

    def fit_as_drawn(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Train at the x_t of the inputs towards their eps, instead of at new t and eps.

        Returns:
            Metrics to log, by name.
        """
        return self._trainer.fit(self.prior(), inputs, as_drawn=True)


def _draw_rows(count: int, total: int, rng: RowRandom) -> Int[Tensor, "r"]:
    """Draw rows of a step, with replacement; of groups of views, whole groups.

    Args:
        count: rows to draw, a multiple of the size of a group.
        total: rows of the step.
        rng: random numbers of the rows.
    """
    size = rng.group_size
    uniform = rng.per_step.uniform("rows", count // size)[0]
    groups = (uniform * (total // size)).long().clamp_max(total // size - 1)
    return (groups[:, None] * size + torch.arange(size)).flatten()


def critic_tensors(module: nn.Module, trainer: CriticTrainer, prefix: str) -> dict[str, Tensor]:
    """Return the checkpoint tensors of a trained critic.

    Args:
        module: what is trained; its tensors are named ``prefix`` + name.
        trainer: its trainer; the optimizer's tensors are named ``optimizer.`` + name.
        prefix: prefix of the module's names, dot included.
    """
    weights = {f"{prefix}{k}": v for k, v in module.state_dict().items()}
    optimizer = optimizer_tensors(trainer.optimizer)
    return weights | {f"optimizer.{k}": v for k, v in optimizer.items()}


def load_critic_tensors(
    module: nn.Module, trainer: CriticTrainer, tensors: dict[str, Tensor], prefix: str
) -> None:
    """Restore what ``critic_tensors`` returned.

    Args:
        module: what is trained; changed in place.
        trainer: its trainer, whose optimizer is changed in place.
        tensors: tensors of the checkpoint.
        prefix: prefix of the module's names, dot included.
    """

    def below(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    module.load_state_dict(below(prefix))
    load_optimizer(trainer.optimizer, below("optimizer."))
