"""DreamPropeller: Zhou et al. 2023 (arXiv 2311.17082), Picard iterations over a window of steps.

theta_{k+1} = A(theta_k, g_k(theta_k)), where A is the optimizer and g_k the gradient of step k with
its own draws. A round computes g_b(theta_b), ..., g_{b+P-1}(theta_{b+P-1}) of guesses, which needs
no order, and then rolls the optimizer out from theta_b through these gradients.
"""

from __future__ import annotations

from statistics import median

import torch
from torch import Tensor

from limbeck.config.discovery import component_name
from limbeck.config.own_errors import naming_own_code
from limbeck.representations.base import Representation
from limbeck.system.processes import dividing
from limbeck.training.step import Step
from limbeck.training.trainer import Run

_GUESSES = "guesses."  #: of the names of their tensors


class ParallelSteps:
    """Takes the steps of a run in rounds, whose gradients do not depend on each other.

    A round moves the run to the first step whose guess the roll-out misses by more than the
    threshold, at least by one step, and keeps the optimizer state of that step. The guesses beyond
    it become those of the roll-out; its end is repeated where the window moves on. At a threshold
    of 0 that stays, or with a window of 1, the particles are bit for bit those of ``Run.advance``.

    Gradients of a round are computed one after another here: ``rounds`` counts the steps in
    sequence that ``window`` devices would need, ``gradients`` the work.

    Args:
        run: a run whose only state is that of its particles and their optimizer.
        window: P, the number of gradients per round.
        threshold: largest error of a guess, ||theta' - theta||^2 / dim, that a round passes over.
        ema_decay: decay of the threshold, thr <- ema_decay thr + (1 - ema_decay) median of the
            errors of the round. 1: the threshold stays.

    Attributes:
        run: the run, after the last step that was taken.
        window: P.
        threshold: the present threshold.
        ema_decay: its decay.
        errors: error of each guess of the last round.
        rounds: number of rounds.
        gradients: number of gradients that were computed.

    Raises:
        ValueError: if an option is out of its range, or if more than the particles changes within
            a step: a critic or another state of the method, an occupancy grid.

    References:
        Zhou et al. 2023, DreamPropeller: Supercharge Text-to-3D Generation with Parallel Sampling,
        arXiv 2311.17082, algorithm 1.
    """

    def __init__(self, run: Run, window: int, threshold: float, ema_decay: float = 0.9):
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"window must be an integer from 1, not {window!r}")
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, not {threshold}")
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay must be in [0, 1], not {ema_decay}")
        _refuse_other_state(run)
        self.run, self.window, self.threshold = run, window, float(threshold)
        self.ema_decay, self.errors = ema_decay, list[float]()
        self.rounds = self.gradients = 0
        self._parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
        self._guesses = [self._copy() for _ in range(self._num_guesses())]

    def advance(self) -> list[Step]:
        """Run one round.

        Returns:
            The steps that were taken, with the gradients at the guesses.

        Raises:
            NonFiniteError: as for ``Run.advance``; the step may also be one ahead of the run.
            ValueError: if the run has taken all its steps, or if the method keeps a state.
        """
        if not self._guesses:
            raise ValueError(f"the run has taken all its {self.run.experiment.steps} steps")
        with dividing(), naming_own_code():
            return self._advance()

    def _advance(self) -> list[Step]:
        run, first, count = self.run, self.run.step, len(self._guesses)
        computed, gradients = self._compute_gradients()
        _refuse_other_state(run)  # now that the method was called
        steps: list[Step] = []
        rolled, self.errors, taken = [], [], 0
        for i in range(count):
            for parameter, gradient in zip(self._parameters, gradients[i], strict=True):
                parameter.grad = gradient
            steps.append(run.apply_gradient(computed[i]))
            rolled.append(self._copy())
            self.errors.append(_mean_square_difference(rolled[i], self._guesses[i]))
            # written so that an error that is not a number ends the round too
            if not taken and (i + 1 == count or not self.errors[i] <= self.threshold):
                taken, state = i + 1, {name: x.clone() for name, x in run.tensors().items()}
        run.load(state, first + taken)
        self.rounds, self.gradients = self.rounds + 1, self.gradients + count
        self.threshold *= self.ema_decay
        self.threshold += (1 - self.ema_decay) * median(self.errors)
        self._guesses = (rolled[taken:] + [rolled[-1]] * count)[: self._num_guesses()]
        return steps[:taken]

    def _compute_gradients(self) -> tuple[list[Step], list[list[Tensor | None]]]:
        """What each step of the window computes at its guess, and its gradient by parameter."""
        run, present = self.run, self._copy()
        computed, gradients = [], []
        try:
            for i, guess in enumerate([present, *self._guesses[:-1]]):
                self._write(guess)
                computed.append(run.compute_gradient(run.step + i))
                gradients.append([p.grad for p in self._parameters])
                run.optimizer.zero_grad(set_to_none=True)
        finally:
            self._write(present)
        run.monitor.raise_if_bad()
        return computed, gradients

    def _num_guesses(self) -> int:
        """The window, or the steps that are left."""
        return min(self.window, self.run.experiment.steps - self.run.step)

    def _copy(self) -> list[Tensor]:
        return [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything the next round depends on besides the experiment, by name."""
        guesses = {
            f"{_GUESSES}{i}.{j}": value
            for i, guess in enumerate(self._guesses)
            for j, value in enumerate(guess)
        }
        threshold = torch.tensor(self.threshold, dtype=torch.float64)
        return self.run.tensors() | guesses | {"threshold": threshold}

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Resume from a checkpoint.

        Args:
            tensors: what ``tensors`` returned.
            step: number of steps that were done then.

        Raises:
            ValueError: if it holds fewer guesses than the window needs; nothing is changed then.
        """
        self._check_guesses(tensors, step)
        own = ("threshold", _GUESSES)
        self.run.load({k: v for k, v in tensors.items() if not k.startswith(own)}, step)
        self.threshold = float(tensors["threshold"])
        numbers = range(len(self._parameters))
        self._guesses = [
            [tensors[f"{_GUESSES}{i}.{j}"].to(self._parameters[j]) for j in numbers]
            for i in range(self._num_guesses())
        ]

    def _check_guesses(self, tensors: dict[str, Tensor], step: int) -> None:
        if "threshold" not in tensors:
            raise ValueError(
                "the checkpoint is of a run without parallel steps: load it with Run.load, and "
                "make ParallelSteps of that run"
            )
        needed = min(self.window, self.run.experiment.steps - step)
        found = sum(f"{_GUESSES}{i}.0" in tensors for i in range(needed))
        if found < needed:
            raise ValueError(
                f"the checkpoint holds guesses for {found} steps, and window {self.window} needs "
                f"{needed}: use window {found}"
            )


def _refuse_other_state(run: Run) -> None:
    """Raise ValueError if a step changes more than the particles and their optimizer."""
    experiment, cls = run.experiment, type(run.representation)
    if run.state.tensors():
        raise ValueError(
            f"method {component_name(type(experiment.method))} keeps a state between steps, such "
            "as a critic, which steps in parallel do not train: use a method without, such as sds"
        )
    changes_itself = cls.after_step is not Representation.after_step
    if changes_itself or cls.critic_only_steps is not Representation.critic_only_steps:
        raise ValueError(
            f"representation {component_name(type(experiment.representation))} changes between "
            "steps by more than gradients, such as an occupancy grid, which steps in parallel do "
            "not take into account: use another, such as dmtet"
        )


def _mean_square_difference(new: list[Tensor], old: list[Tensor]) -> float:
    """||new - old||^2 / dim in float64, so that only equal values have an error of 0."""
    pairs = zip(new, old, strict=True)
    total = torch.stack([(a.double() - b.double()).square().sum() for a, b in pairs]).sum()
    return float(total) / sum(a.numel() for a in new)
