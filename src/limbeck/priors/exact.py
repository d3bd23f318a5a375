"""Exact priors: their score in closed form shows a method without the error of a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction, PredictionType
from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.diffusion.schedule import NoiseSchedule, stable_diffusion_schedule
from limbeck.diffusion.tensors import expand, to_unit_range
from limbeck.diffusion.vocabulary import Vocabulary, words_of


def component_log_weights(labels: Sequence[str], prompts: Sequence[str]) -> Float[Tensor, "p k"]:
    """Return log-weights of the components that prompts name: 0, or -inf for the others.

    A prompt names the components whose label shares the most words with it; numbers are no words.
    An empty prompt names all.

    Args:
        labels: one label per component, k of them.
        prompts: p prompts.

    Raises:
        ValueError: if a prompt shares no word with any label.
    """
    label_words = [_words(label) for label in labels]
    rows = []
    for prompt in prompts:
        prompt_words = _words(prompt)
        shared = torch.tensor([len(prompt_words & words) for words in label_words])
        if prompt.strip() and int(shared.max()) == 0:
            known = ", ".join(sorted(set().union(*label_words))[:40]) or "none"
            raise ValueError(
                f"prompt {prompt!r} names nothing of this model; words it knows: {known}"
            )
        rows.append(torch.where(shared == shared.max(), 0.0, -torch.inf).double())
    return torch.stack(rows)


class LabelVocabulary(Vocabulary):
    """The words by which prompts name the components of an exact prior."""

    def unknown(self, text: str) -> list[str]:
        """The words of a text that name nothing; none of a text that is refused as a whole."""
        words, known = words_of(text), {*self.words, *_ARTICLES}
        if _words(text).isdisjoint(self.words):
            return []
        return [word for word in words if _words(word).isdisjoint(known)]


def label_vocabulary(labels: Sequence[str]) -> LabelVocabulary | None:
    """The vocabulary of an exact prior; None without labels: any prompt names everything."""
    return LabelVocabulary(tuple(sorted(set().union(*map(_words, labels))))) if labels else None


_ARTICLES = ("a", "an", "the")  #: read over


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text.lower()))


@dataclass(frozen=True)
class _ComponentsAt:
    """What the predictions of a mixture at x_t share, in float64."""

    x: Float[Tensor, "b d"]
    alpha: Float[Tensor, "b"]
    sigma: Float[Tensor, "b"]
    variance: Float[Tensor, "b k"]
    log_joint: Float[Tensor, "b k"]


def _squared_distances(
    x: Float[Tensor, "b d"], alpha: Float[Tensor, "b"], means: Float[Tensor, "k d"]
) -> Float[Tensor, "b k"]:
    """|x - alpha mean_k|^2, by one matrix product.

    Both are taken relative to the center of the means, so that the difference of squares keeps its
    precision.
    """
    center = means.mean(0)
    centered, offset = means - center, x - alpha[:, None] * center
    products = offset @ centered.T
    squares = alpha[:, None] ** 2 * centered.square().sum(1)
    norms = torch.einsum("bd,bd->b", offset, offset)[:, None]  # squares without a copy
    return norms - 2 * alpha[:, None] * products + squares


@dataclass
class GaussianMixture:
    """A mixture of isotropic Gaussians, p(x) = sum_k weight_k N(mean_k, std_k^2 I).

    Prompts select components by the words of their labels. Everything is computed in float64 and
    returned in the dtype of x_t.

    Attributes:
        means: means of the K components, ``[K, *shape]``.
        stds: their standard deviations, ``[K]``; 0 is a point.
        weights: their weights on any positive scale, ``[K]``. None: equal weights.
        labels: their labels. Empty: every prompt names all components.
        schedule: the noise schedule.
        device: device of the tensors.
        prediction_type: what a critic of this prior predicts.
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
                f"{len(self.means)} means, {len(self.stds)} stds and {len(self.weights)} weights: "
                "their numbers must be equal"
            )
        if not bool((self.stds >= 0).all()) or not bool((self.weights > 0).all()):
            raise ValueError("stds must not be negative and weights must be positive")
        self.means, self.stds = self.means.double(), self.stds.double()
        self._log_weights = self.weights.double().log()
        self.vocabulary = label_vocabulary(self.labels)
        self.shape = tuple(self.means.shape[1:])
        self.image_size = (self.shape[-2], self.shape[-1]) if len(self.shape) == 3 else (1, 1)
        self.size_multiple = 0  # the closed form holds for this size only
        self.call_counter = NetworkCallCounter()

    def condition(self, prompts: Sequence[str]) -> Condition:
        """See ``Prior.condition``: log-weights of the components, one row per prompt."""
        if not self.labels:
            return Condition(torch.zeros(len(prompts), len(self.means), dtype=torch.float64))
        return Condition(component_log_weights(self.labels, prompts))

    def _components_at(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"]) -> _ComponentsAt:
        """The components of p_t, and their log-densities at x_t."""
        alpha, sigma = self.schedule.alpha(t).double(), self.schedule.sigma(t).double()
        x, means = xt.double().flatten(1), self.means.flatten(1)
        variance = (alpha[:, None] * self.stds) ** 2 + sigma[:, None] ** 2
        distance = _squared_distances(x, alpha, means)
        log = -0.5 * (distance / variance + x.shape[1] * (2 * torch.pi * variance).log())
        return _ComponentsAt(x, alpha, sigma, variance, log + self._log_weights)

    def log_density(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], condition: Condition
    ) -> Float[Tensor, "b"]:
        """Return log p_t(x_t | condition), differentiable in x_t.

        Args:
            xt: noised x0.
            t: time of each row.
            condition: condition of each row.
        """
        chosen = condition.data.double()
        norm = (self._log_weights + chosen).logsumexp(1)
        return (self._components_at(xt, t).log_joint + chosen).logsumexp(1) - norm

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``. All conditions share the distances to the means."""
        self.call_counter.add(len(xt) * len(conditions))
        at = self._components_at(xt, t)
        return [self._predict(xt, at, condition) for condition in conditions]

    def _predict(self, xt: Tensor, at: _ComponentsAt, condition: Condition) -> Prediction:
        posterior = (at.log_joint + condition.data.double()).softmax(1)
        means, alpha, sigma = self.means.flatten(1), at.alpha[:, None], at.sigma[:, None]
        # E[x0 | x_t, k] = mean_k + gain_k (x_t - alpha mean_k)
        gain = alpha * self.stds**2 / at.variance
        x0 = (posterior * gain).sum(1, True) * at.x
        x0.addmm_(posterior * (1 - alpha * gain), means)
        # E[eps | x_t, k] = sigma / variance_k (x_t - alpha mean_k); exact also where alpha is 1
        precision = sigma * posterior / at.variance
        eps = precision.sum(1, True) * at.x
        eps.addmm_(alpha * precision, means, alpha=-1)
        return Prediction(x0.to(xt.dtype).view_as(xt), eps.to(xt.dtype).view_as(xt))

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        """See ``Prior.encode``."""
        return image * 2 - 1

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b 3 h w"]:
        """See ``Prior.decode``."""
        return to_unit_range(x0 / 2 + 0.5)


@dataclass
class DataSet:
    """The optimal denoiser of a finite data set.

    x0_hat = sum_i r_i x_i, r = softmax(-|x_t - alpha x_i|^2 / 2 sigma^2).

    Attributes:
        images: the images. They stay uint8 and are converted chunk by chunk, so that 50,000 fit.
        labels: one label per image. Empty: every prompt names all images.
        schedule: the noise schedule.
        device: device of the tensors.
        prediction_type: what a critic of this prior predicts.
        chunk_size: images per chunk.
    """

    images: UInt8[Tensor, "n 3 h w"]
    labels: tuple[str, ...] = ()
    schedule: NoiseSchedule = field(default_factory=stable_diffusion_schedule)
    device: str = "cpu"
    prediction_type: PredictionType = "eps"
    chunk_size: int = 2048

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or len(self.images) == 0:
            raise ValueError(
                f"images must be [N, 3, h, w] with N at least 1, not {list(self.images.shape)}"
            )
        self.shape = tuple(self.images.shape[1:])
        self.image_size = (self.shape[1], self.shape[2])
        self.size_multiple = 0  # the closed form holds for this size only
        self.call_counter = NetworkCallCounter()
        self._classes = tuple(sorted(set(self.labels)))
        self.vocabulary = label_vocabulary(self._classes)

    def condition(self, prompts: Sequence[str]) -> Condition:
        """See ``Prior.condition``: log-weights of the images, one row per prompt."""
        if not self.labels:
            return Condition(torch.zeros(len(prompts), len(self.images), dtype=torch.float32))
        class_weights = component_log_weights(self._classes, prompts)
        class_of_image = torch.tensor([self._classes.index(label) for label in self.labels])
        return Condition(class_weights[:, class_of_image].float())

    def __call__(
        self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        """See ``Prior.__call__``. One pass over the images: all conditions share the distances."""
        self.call_counter.add(len(xt) * len(conditions))
        dtype = torch.float64 if xt.dtype == torch.float64 else torch.float32
        alpha, sigma = self.schedule.alpha(t).to(dtype), self.schedule.sigma(t).to(dtype)
        x, safe_alpha = xt.to(dtype).flatten(1), alpha.clamp_min(1e-9)
        scaled, precision = x / safe_alpha[:, None], (safe_alpha / sigma).square()[:, None]
        means = [_RunningSoftmaxMean(x) for _ in conditions]
        for start in range(0, len(self.images), self.chunk_size):
            chunk = slice(start, start + self.chunk_size)
            y = self.images[chunk].flatten(1).to(dtype) / 127.5 - 1
            distance = torch.cdist(scaled, y, compute_mode="donot_use_mm_for_euclid_dist")
            logits = -0.5 * distance.square() * precision
            for mean, condition in zip(means, conditions, strict=True):
                mean.update(logits + condition.data[:, chunk].to(dtype), y)
        predictions = []
        for mean in means:
            x0 = mean.value().view_as(xt)
            eps = (xt.to(dtype) - expand(alpha, x0) * x0) / expand(sigma, x0)
            predictions.append(Prediction(x0.to(xt.dtype), eps.to(xt.dtype)))
        return predictions

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        """See ``Prior.encode``."""
        return image * 2 - 1

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b 3 h w"]:
        """See ``Prior.decode``."""
        return to_unit_range(x0 / 2 + 0.5)


class _RunningSoftmaxMean:
    """A softmax-weighted mean of rows that come in chunks."""

    def __init__(self, like: Float[Tensor, "b d"]):
        self._max_logit = torch.full((len(like), 1), -torch.inf, dtype=like.dtype)
        self._weight = torch.zeros(len(like), 1, dtype=like.dtype)
        self._sum = torch.zeros_like(like)

    def update(self, logits: Float[Tensor, "b n"], y: Float[Tensor, "n d"]) -> None:
        """Add n rows.

        Args:
            logits: logits of the rows.
            y: the rows.
        """
        max_logit = torch.maximum(self._max_logit, logits.amax(1, keepdim=True))
        finite = torch.where(max_logit.isfinite(), max_logit, 0.0)
        weight, rescale = (logits - finite).exp(), (self._max_logit - finite).exp()
        self._weight = self._weight * rescale + weight.sum(1, keepdim=True)
        self._sum = self._sum * rescale + weight @ y
        self._max_logit = max_logit

    def value(self) -> Float[Tensor, "b d"]:
        """The mean of all rows so far."""
        return self._sum / self._weight


def colored_shapes(
    size: int = 24,
    std: float = 0.08,
    schedule: NoiseSchedule | None = None,
    prediction_type: PredictionType = "eps",
) -> GaussianMixture:
    """Return the mixture behind ``--model gaussians``.

    Its means are twelve soft images, {red, green, blue, yellow} x {disc, square, ring}, on gray.
    ``gaussians-flow`` is the same on straight paths.

    Args:
        size: height and width in pixels.
        std: standard deviation of every component.
        schedule: the noise schedule. None: that of Stable Diffusion.
        prediction_type: what a critic of this prior predicts.
    """

    def soft_mask(distance: Tensor) -> Tensor:
        return torch.sigmoid(-distance * size / 2)

    axis = torch.linspace(-1, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = (x**2 + y**2).sqrt()
    masks = {
        "disc": soft_mask(radius - 0.6),
        "square": soft_mask(torch.maximum(x.abs(), y.abs()) - 0.55),
        "ring": soft_mask((radius - 0.55).abs() - 0.18),
    }
    colors = {
        "red": (0.8, -0.7, -0.7),
        "green": (-0.7, 0.5, -0.6),
        "blue": (-0.7, -0.4, 0.9),
        "yellow": (0.9, 0.8, -0.7),
    }
    means, labels = [], []
    for color, rgb in colors.items():
        for shape, mask in masks.items():
            foreground = torch.tensor(rgb, dtype=torch.float64)[:, None, None] * mask
            means.append(foreground + 0.1 * (1 - mask))
            labels.append(f"{color} {shape}")
    return GaussianMixture(
        torch.stack(means),
        torch.full((12,), std),
        labels=tuple(labels),
        schedule=schedule or stable_diffusion_schedule(),
        prediction_type=prediction_type,
    )
