"""Exact priors: the score in closed form, so that what a method does is the method's doing alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.diffusion.schedule import NoiseSchedule, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand


def component_log_weights(labels: Sequence[str], prompts: Sequence[str]) -> Float[Tensor, "p k"]:
    """Log-weights of the components a prompt names: those whose label shares the most words with it. Empty prompts name all.

    Raises ValueError where a prompt shares no word with any label.
    """
    words = [set(re.findall(r"[^\W\d_]+", label.lower())) for label in labels]
    rows = []
    for prompt in prompts:
        said = set(re.findall(r"[^\W\d_]+", prompt.lower()))
        shared = torch.tensor([len(said & w) for w in words])
        if said and int(shared.max()) == 0:
            known = ", ".join(sorted(set().union(*words))[:40]) or "none"
            raise ValueError(
                f"prompt {prompt!r} names nothing of this model; words it knows: {known}"
            )
        keep = shared == shared.max()
        rows.append(torch.where(keep, 0.0, -torch.inf).double())
    return torch.stack(rows)


@dataclass
class GaussianMixture:
    """p(x) = sum_k weight_k N(mean_k, std_k^2 I). Prompts pick components by the words of their labels.

    means ``[K, *shape]``, stds ``[K]``, weights ``[K]`` (any positive scale). Everything is computed in float64 and
    returned in the dtype of x_t.
    """

    means: Float[Tensor, "k ..."]
    stds: Float[Tensor, "k"]
    weights: Float[Tensor, "k"] | None = None
    labels: tuple[str, ...] = ()
    schedule: NoiseSchedule = field(default_factory=stable_diffusion_schedule)
    device: str = "cpu"
    prediction_type: PredictionType = "eps"

    def __post_init__(self) -> None:
        if self.weights is None:
            self.weights = torch.ones(len(self.means))
        if not (len(self.means) == len(self.stds) == len(self.weights)):
            raise ValueError(
                f"{len(self.means)} means, {len(self.stds)} stds and {len(self.weights)} weights do not match"
            )
        if not bool((self.stds >= 0).all()) or not bool((self.weights > 0).all()):
            raise ValueError("stds must not be negative and weights must be positive")
        self.means, self.stds, self._log_weights = (
            self.means.double(),
            self.stds.double(),
            self.weights.double().log(),
        )
        self.shape = tuple(self.means.shape[1:])
        self.image_size = (self.shape[-2], self.shape[-1]) if len(self.shape) == 3 else (1, 1)
        self.size_multiple = 0  # the closed form is of this size only
        self.call_counter = NetworkCallCounter()

    def condition(self, prompts: Sequence[str]) -> Condition:
        if not self.labels:
            return Condition(torch.zeros(len(prompts), len(self.means), dtype=torch.float64))
        return Condition(component_log_weights(self.labels, prompts))

    def _log_parts(
        self, xt: Tensor, t: Tensor, told: Condition
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log of weight times density of each component at x_t ``[B, K]``, differences ``[B, K, D]``, variances ``[B, K]``,
        alpha."""
        alpha, sigma = self.schedule.alpha(t).double(), self.schedule.sigma(t).double()
        x = xt.double().flatten(1)
        variance = (alpha[:, None] * self.stds) ** 2 + sigma[:, None] ** 2
        apart = x[:, None] - alpha[:, None, None] * self.means.flatten(1)
        log = self._log_weights + told.data.double() - 0.5 * apart.square().sum(-1) / variance
        return log - 0.5 * x.shape[1] * (2 * torch.pi * variance).log(), apart, variance, alpha

    def log_density(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], told: Condition
    ) -> Float[Tensor, "b"]:
        """log p_t(x_t | told), differentiable in x_t."""
        norm = (self._log_weights + told.data.double()).logsumexp(1)
        return self._log_parts(xt, t, told)[0].logsumexp(1) - norm

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        self.call_counter.add(len(xt) * len(conditions))
        return [self._predict(xt, t, told) for told in conditions]

    def _predict(self, xt: Tensor, t: Tensor, told: Condition) -> Prediction:
        log, apart, variance, alpha = self._log_parts(xt, t, told)
        share = log.softmax(1)
        # E[x0 | x_t, k] = mean_k + alpha std_k^2 / variance_k (x_t - alpha mean_k)
        gain = (alpha[:, None] * self.stds**2 / variance)[..., None]
        x0 = (share[..., None] * (self.means.flatten(1) + gain * apart)).sum(1)
        eps = (share[..., None] * apart / variance[..., None]).sum(1) * self.schedule.sigma(
            t
        ).double()[:, None]
        return Prediction(x0.to(xt.dtype).view_as(xt), eps.to(xt.dtype).view_as(xt))

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        return image * 2 - 1

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b 3 h w"]:
        return (x0 / 2 + 0.5).clamp(0, 1)


@dataclass
class DataSet:
    """The optimal denoiser of a finite data set: x0_hat = sum_i r_i x_i, r = softmax(-|x_t - alpha x_i|^2 / 2 sigma^2).

    pictures: uint8 ``[N, 3, h, w]``, kept as they are and streamed in chunks, so that 50,000 fit. labels: one text per picture.
    """

    images: Tensor
    labels: tuple[str, ...] = ()
    schedule: NoiseSchedule = field(default_factory=stable_diffusion_schedule)
    device: str = "cpu"
    prediction_type: PredictionType = "eps"
    chunk_size: int = 2048

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or len(self.images) == 0:
            raise ValueError(
                f"pictures must be [N, 3, h, w] with N at least 1, not {list(self.images.shape)}"
            )
        self.shape = tuple(self.images.shape[1:])
        self.image_size = (self.shape[1], self.shape[2])
        self.size_multiple = 0  # the closed form is of this size only
        self.call_counter = NetworkCallCounter()
        self._classes = tuple(sorted(set(self.labels)))

    def condition(self, prompts: Sequence[str]) -> Condition:
        if not self.labels:
            return Condition(torch.zeros(len(prompts), len(self.images), dtype=torch.float32))
        chosen = component_log_weights(self._classes, prompts)
        index = torch.tensor([self._classes.index(label) for label in self.labels])
        return Condition(chosen[:, index].float())

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """All conditions in one pass over the data: the distances are shared."""
        self.call_counter.add(len(xt) * len(conditions))
        work = torch.float64 if xt.dtype == torch.float64 else torch.float32
        alpha, sigma = self.schedule.alpha(t).to(work), self.schedule.sigma(t).to(work)
        x = xt.to(work).flatten(1)
        # a running softmax per condition: greatest log-weight so far, sum of weights, weighted sum of pictures
        top = [torch.full((len(x), 1), -torch.inf, dtype=work)] * len(conditions)
        total = [torch.zeros(len(x), 1, dtype=work)] * len(conditions)
        mean = [torch.zeros_like(x)] * len(conditions)
        for start in range(0, len(self.images), self.chunk_size):
            y = self.images[start : start + self.chunk_size].flatten(1).to(work) / 127.5 - 1
            log = (
                -0.5
                * torch.cdist(
                    x / alpha.clamp_min(1e-9)[:, None],
                    y,
                    compute_mode="donot_use_mm_for_euclid_dist",
                ).square()
            )
            log = log * (alpha.clamp_min(1e-9) / sigma).square()[:, None]
            for k, told in enumerate(conditions):
                part = log + told.data[:, start : start + self.chunk_size].to(work)
                high = torch.maximum(top[k], part.amax(1, keepdim=True))
                safe = torch.where(high.isfinite(), high, 0.0)
                weight, old = (part - safe).exp(), (top[k] - safe).exp()
                total[k] = total[k] * old + weight.sum(1, keepdim=True)
                mean[k] = mean[k] * old + weight @ y
                top[k] = high
        out = []
        for k in range(len(conditions)):
            x0 = (mean[k] / total[k]).view_as(xt)
            eps = (xt.to(work) - expand(alpha, x0) * x0) / expand(sigma, x0)
            out.append(Prediction(x0.to(xt.dtype), eps.to(xt.dtype)))
        return out

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        return image * 2 - 1

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b 3 h w"]:
        return (x0 / 2 + 0.5).clamp(0, 1)


def colored_shapes(
    size: int = 24,
    std: float = 0.08,
    schedule: NoiseSchedule | None = None,
    prediction_type: PredictionType = "eps",
) -> GaussianMixture:
    """The mixture behind ``--model gaussians``: twelve soft pictures, {red, green, blue, yellow} x {disc, square, ring}, on
    grey. Behind ``gaussians-flow`` the same on straight paths."""
    axis = torch.linspace(-1, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = (x**2 + y**2).sqrt()
    soft = lambda d: torch.sigmoid(-d * size / 2)  # noqa: E731
    masks = {
        "disc": soft(radius - 0.6),
        "square": soft(torch.maximum(x.abs(), y.abs()) - 0.55),
        "ring": soft((radius - 0.55).abs() - 0.18),
    }
    colours = {
        "red": (0.8, -0.7, -0.7),
        "green": (-0.7, 0.5, -0.6),
        "blue": (-0.7, -0.4, 0.9),
        "yellow": (0.9, 0.8, -0.7),
    }
    means, labels = [], []
    for name, rgb in colours.items():
        for shape, mask in masks.items():
            means.append(
                torch.tensor(rgb, dtype=torch.float64)[:, None, None] * mask + 0.1 * (1 - mask)
            )
            labels.append(f"{name} {shape}")
    schedule = schedule or stable_diffusion_schedule()
    return GaussianMixture(
        torch.stack(means),
        torch.full((12,), std),
        labels=tuple(labels),
        schedule=schedule,
        prediction_type=prediction_type,
    )
