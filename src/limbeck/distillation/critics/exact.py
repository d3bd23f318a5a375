"""The exact critic: the optimal denoiser of the particles, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import Prior, PriorWrapper
from limbeck.diffusion.tensors import expand, to_device
from limbeck.distillation.critics.base import Critic, CriticConfig
from limbeck.distillation.inputs import SetupContext, StepInputs
from limbeck.system.processes import is_divided, join_rows, own_rows, take_rows
from limbeck.system.random import occurrences


@dataclass(frozen=True)
class ExactCritic(CriticConfig):
    """The optimal denoiser of the particles of a prompt, in closed form: nothing is trained.

    A particle outside the batch counts with its last known x0, at first its initial one. So q is
    exact if every particle is in every batch. Where a step has several rows of a particle, only the
    rows of the step count: views with the views of the same number, so that one particle is known
    exactly, and samples of a generator all together.

    Attributes:
        buffer: number of past x0 per prompt that count like the present particles; the oldest are
            dropped. 0: present particles only.
    """

    buffer: int = 0

    def __post_init__(self) -> None:
        if self.buffer < 0:
            raise ValueError(f"buffer must not be negative, not {self.buffer}")

    def build(self, prior: Prior, setup: SetupContext) -> Critic:
        setup.require_prompts_of_particles("an exact critic denoises the particles of")
        return _ExactCriticModel(prior, setup, self.buffer)


class _ExactCriticModel(Critic):
    def __init__(self, prior: Prior, setup: SetupContext, buffer: int):
        self._prior, self.x0, self._prompt_of = prior, setup.x0.clone(), setup.prompt_index
        self._per_prompt = setup.particles // setup.num_prompts
        self._particle: Int[Tensor, "b"] = torch.arange(setup.particles)  # on the CPU
        self._fresh_samples = setup.fresh_samples
        # x0 of the step, if it has several rows of a particle
        self._rows: Float[Tensor, "b ..."] | None = None
        self._past = self.x0.new_zeros(setup.num_prompts, buffer, *self.x0.shape[1:])
        # how many x0 each prompt has pushed, kept on the CPU, where particle indices are drawn
        self._num_pushed = torch.zeros(setup.num_prompts, dtype=torch.long)

    def observe(self, inputs: StepInputs) -> None:
        self._particle = inputs.particle.cpu()
        self.x0[to_device(self._particle, self.x0.device)] = inputs.x0.detach()
        is_repeated = len(self._particle.unique()) < len(self._particle)
        self._rows = inputs.x0.detach() if is_repeated else None

    def prior(self) -> Prior:
        if self._rows is not None:
            return self._prior_of_rows(self._rows)
        present = self.x0.unflatten(0, (-1, self._per_prompt))
        filled = torch.arange(self._past.shape[1])[None] < self._num_pushed[:, None]
        valid = torch.cat([torch.ones(present.shape[:2], dtype=torch.bool), filled], 1)
        return _ParticleDenoiser(
            self._prior,
            torch.cat([present, self._past], 1),
            to_device(valid, self.x0.device),
            self._particle // self._per_prompt,
        )

    def _prior_of_rows(self, rows: Float[Tensor, "b ..."]) -> Prior:
        """The denoiser of the rows of the step: of each prompt, and of each view by itself."""
        prompt = self._prompt_of(self._particle)
        view = torch.zeros_like(prompt) if self._fresh_samples else occurrences(self._particle)
        num_views = int(view.max()) + 1
        group, place = (prompt * num_views + view).unique(return_inverse=True)
        x0 = rows.expand(len(group), *rows.shape)
        present = place == torch.arange(len(group))[:, None]
        prompts = group // num_views
        filled = torch.arange(self._past.shape[1])[None] < self._num_pushed[prompts, None]
        if filled.shape[1]:
            past = self._past[to_device(prompts, rows.device)]
            x0, present = torch.cat([x0, past.to(x0)], 1), torch.cat([present, filled], 1)
        return _ParticleDenoiser(self._prior, x0, to_device(present, rows.device), place)

    def standalone(self) -> Prior:
        """Refused: it denoises the rows of the current batch, and its samples are particles."""
        raise ValueError(
            "the samples of an exact critic are the run's particles: see the run's final.png"
        )

    def fit(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Push the x0 of this batch, which are about to change, to the buffer of their prompts."""
        size = self._past.shape[1]
        if size == 0:
            return {}
        # a ring buffer; when a prompt has more rows than slots, the last row wins
        slots: dict[tuple[int, int], int] = {}
        for row, prompt in enumerate(self._prompt_of(inputs.particle.cpu()).tolist()):
            slots[prompt, int(self._num_pushed[prompt]) % size] = row
            self._num_pushed[prompt] += 1
        prompts, places = to_device(torch.tensor(list(slots)), self.x0.device).unbind(1)
        rows = to_device(torch.tensor(list(slots.values())), self.x0.device)
        self._past[prompts, places] = inputs.x0.detach()[rows].to(self._past)
        return {}

    def tensors(self) -> dict[str, Tensor]:
        past = {"past": self._past, "num_pushed": self._num_pushed} if self._past.shape[1] else {}
        return {"x0": self.x0, **past}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.x0 = tensors["x0"].to(self.x0).clone()
        if self._past.shape[1]:
            self._past = tensors["past"].to(self._past).clone()
            self._num_pushed = tensors["num_pushed"].to(self._num_pushed).clone()

    def save(self, folder: Path) -> None:
        """Write ``particles.safetensors``."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.cpu().contiguous() for k, v in self.tensors().items()}
        save_file(tensors, folder / "particles.safetensors")


class _ParticleDenoiser(PriorWrapper):
    """The optimal denoiser of q_t, the noised particles: x0_hat = sum_j r_j x_j.

    r = softmax(-|x_t - alpha x_j|^2 / 2 sigma^2) over the valid x_j of the row's prompt.

    Args:
        prior: the prior whose space and schedule it has.
        x0: the x_j of every prompt, ``[prompts, n, *shape]``.
        valid: which of them exist.
        prompt: the prompt index of each row, on the CPU.
    """

    def __init__(
        self,
        prior: Prior,
        x0: Float[Tensor, "p n ..."],
        valid: Bool[Tensor, "p n"],
        prompt: Int[Tensor, "b"],
    ):
        super().__init__(prior)
        self._x0, self._valid, self._prompt = x0, valid, prompt

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        count = len(xt)
        if is_divided(count):  # over the processes of the run, as network calls are
            rows = own_rows(count)
            x0 = join_rows(self._denoise(take_rows(xt), t[rows], self._prompt[rows]), count)
        else:
            x0 = self._denoise(xt, t, self._prompt)
        alpha, sigma = self.schedule.alpha(t).to(xt), self.schedule.sigma(t).to(xt)
        eps = torch.addcmul(xt, expand(alpha, x0), x0, value=-1) / expand(sigma, x0)
        prediction = Prediction(x0, eps)
        return [prediction for _ in conditions]

    def _denoise(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], prompts: Int[Tensor, "b"]
    ) -> Float[Tensor, "b ..."]:
        alpha, sigma = self.schedule.alpha(t).to(xt), self.schedule.sigma(t).to(xt)
        x0 = torch.empty_like(xt)
        for prompt in prompts.unique().tolist():
            rows = to_device((prompts == prompt).nonzero().flatten(), xt.device)
            candidates, valid = self._x0[prompt].flatten(1), self._valid[prompt]
            logits = _log_responsibilities(
                xt[rows].flatten(1), alpha[rows], sigma[rows], candidates
            )
            logits = logits.masked_fill(~valid, -torch.inf)
            mean = logits.softmax(1).to(xt.dtype) @ candidates.to(xt.dtype)
            x0[rows] = mean.view(len(rows), *xt.shape[1:])
        return x0


def _log_responsibilities(
    xt: Float[Tensor, "b d"],
    alpha: Float[Tensor, "b"],
    sigma: Float[Tensor, "b"],
    candidates: Float[Tensor, "n d"],
) -> Float[Tensor, "b n"]:
    """-|x_t - alpha x_j|^2 / 2 sigma^2 up to a constant per row, by one matrix product.

    |x_t - alpha c|^2 with the mean c of the x_j is left out, as the softmax cancels it. The rest is
    centered and in float64, so that the difference of squares keeps its precision. The squares are
    one more column of the product: no other matrix of this size is needed.
    """
    center, a = candidates.mean(0, dtype=torch.double), alpha.double()[:, None]
    scale = a / sigma.double()[:, None] ** 2
    centered = candidates - center
    of_rows = torch.addcmul(xt.double(), a, center, value=-1) * scale
    squares = centered.square().sum(1, keepdim=True)
    return torch.cat([of_rows, -0.5 * a * scale], 1) @ torch.cat([centered, squares], 1).T
