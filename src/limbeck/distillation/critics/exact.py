"""The exact critic: what the particles are, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.inputs import SetupContext, StepInputs


@dataclass(frozen=True)
class ExactCritic(CriticConfig):
    """The optimal denoiser of the particles of a prompt, in closed form: nothing is trained.

    A particle that was not drawn counts where it was last seen, before that at its start, so that q is exact where every particle
    is drawn at every step. buffer: past places of a prompt's particles that count beside the present ones, the last so many; 0
    for none.
    """

    buffer: int = 0

    def __post_init__(self) -> None:
        if self.buffer < 0:
            raise ValueError(f"buffer must not be negative, not {self.buffer}")

    def build(self, prior: Prior, start: SetupContext) -> Critic:
        return _ExactCriticModel(prior, start, self.buffer)


class _ExactCriticModel(Critic):
    def __init__(self, prior: Prior, start: SetupContext, size: int):
        self._prior, self.x0, self._prompt_of = prior, start.x0.clone(), start.prompt_of
        self._per = start.particles // start.num_prompts
        self._view: Int[Tensor, "b"] = torch.arange(start.particles)
        self._past = self.x0.new_zeros(start.num_prompts, size, *self.x0.shape[1:])
        self._pushed = torch.zeros(
            start.num_prompts, dtype=torch.long
        )  # on the CPU, where views are drawn

    def observe(self, sample: StepInputs) -> None:
        self._view = to_device(sample.particle, self.x0.device)
        self.x0[self._view] = sample.x0.detach()

    def prior(self) -> Prior:
        now = self.x0.unflatten(0, (-1, self._per))
        known = torch.arange(self._past.shape[1])[None] < self._pushed[:, None]
        there = to_device(
            torch.cat([torch.ones(now.shape[:2], dtype=torch.bool), known], 1), self.x0.device
        )
        return _ParticleDenoiser(
            self._prior, torch.cat([now, self._past], 1), there, self._view // self._per
        )

    def standalone(self) -> Prior:
        """None: it is of the particles it was last told of, row by row, and a sample of it is one of them."""
        raise ValueError(
            "the exact critic's samples are the run's particles themselves: look at its final.png"
        )

    def fit(self, sample: StepInputs) -> dict[str, Tensor]:
        """The places the drawn particles are about to leave become the past; the oldest are forgotten."""
        size = self._past.shape[1]
        if size == 0:
            return {}
        slots: dict[tuple[int, int], int] = {}
        for row, prompt in enumerate(self._prompt_of(sample.particle.cpu()).tolist()):
            slots[prompt, int(self._pushed[prompt]) % size] = row
            self._pushed[prompt] += 1
        prompts, places = to_device(torch.tensor(list(slots)), self.x0.device).unbind(1)
        rows = to_device(torch.tensor(list(slots.values())), self.x0.device)
        self._past[prompts, places] = sample.x0.detach()[rows].to(self._past)
        return {}

    def tensors(self) -> dict[str, Tensor]:
        past = {"past": self._past, "pushed": self._pushed} if self._past.shape[1] else {}
        return {"x0": self.x0, **past}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.x0 = tensors["x0"].to(self.x0).clone()
        if self._past.shape[1]:
            self._past, self._pushed = (
                tensors["past"].to(self._past).clone(),
                tensors["pushed"].to(self._pushed).clone(),
            )

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.cpu().contiguous() for k, v in self.tensors().items()},
            folder / "particles.safetensors",
        )


class _ParticleDenoiser(PriorWrapper):
    """q_t of the particles: x0_hat = sum_j r_j x_j over those of the row's prompt that are there,
    r = softmax(-|x_t - alpha x_j|^2 / 2 sigma^2)."""

    def __init__(self, prior: Prior, x0: Tensor, there: Tensor, prompts: Tensor):
        super().__init__(prior)
        self._x0, self._there, self._prompts = x0, there, prompts

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        alpha, sigma = self.schedule.alpha(t).to(xt), self.schedule.sigma(t).to(xt)
        groups = self._x0.to(xt).flatten(2)[self._prompts]
        log = -(xt.flatten(1)[:, None] - alpha[:, None, None] * groups).square().sum(-1) / (
            2 * sigma[:, None] ** 2
        )
        log = log.masked_fill(~self._there[self._prompts], -torch.inf)
        x0 = (log.softmax(1)[..., None] * groups).sum(1).view_as(xt)
        said = Prediction(x0, (xt - expand(alpha, x0) * x0) / expand(sigma, x0))
        return [said for _ in conditions]
