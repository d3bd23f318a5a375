"""Evaluator of the world: a small classifier of object, color, pattern, background and view.

A plain classifier names an object in any blotch. This one has a fifteenth class of objects, *none
of them*, trained on blurred, noisy, shuffled, blended and view-inconsistent images. A further head
tells which way an object seen from the side faces, so that a mirrored 3D object can be noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.world.render_cache import images_to_tensor, load_images, load_scenes
from limbeck.world.scene import ATTRIBUTES, FACINGS, OBJECTS
from limbeck.world.trainer import Task

REJECT = len(OBJECTS)  #: Object index of "none of the objects".
_NUM_FEATURES = 160
_MAP_SIZE = 4  #: height and width of the last feature map


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.a = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.b = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.na, self.nb = nn.GroupNorm(8, out_channels), nn.GroupNorm(8, out_channels)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.skip(x) + self.nb(self.b(F.silu(self.na(self.a(x))))))


class Evaluator(nn.Module):
    """Maps images in [0, 1] to features and to one vector of logits per attribute."""

    def __init__(self) -> None:
        super().__init__()
        channels = (24, 24, 64, 112, _NUM_FEATURES)
        self.stem = nn.Conv2d(3, channels[0], 3, 2, 1)
        self.blocks = nn.Sequential(
            *(_Block(a, b, 2 if b > 24 else 1) for a, b in pairwise(channels))
        )
        self.norm = nn.LayerNorm(_NUM_FEATURES)
        sizes = {name: len(words) + (name == "object") for name, words in ATTRIBUTES.items()}
        self.heads = nn.ModuleDict({name: nn.Linear(_NUM_FEATURES, n) for name, n in sizes.items()})
        self.facing = nn.Linear(_NUM_FEATURES * _MAP_SIZE**2, len(FACINGS))

    def _feature_map(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f 4 4"]:
        """Return features by place; images of another size are resized to 64 x 64."""
        if images.shape[-2:] != (64, 64):
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
        return self.blocks(self.stem(images * 2 - 1))

    def _pool(self, x: Float[Tensor, "b f 4 4"]) -> Float[Tensor, "b f"]:
        return self.norm(x.mean((2, 3)) + x.amax((2, 3)))

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """Return pooled features, the space of the Frechet distance.

        Images of another size are resized to 64 x 64.
        """
        return self._pool(self._feature_map(images))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """Return logits by attribute, and of ``facing``.

        ``object`` has one more class, ``REJECT``. ``facing`` has the classes ``FACINGS`` and says
        something of images from the side only.
        """
        x = self._feature_map(images)
        features = self._pool(x)
        logits = {name: head(features) for name, head in self.heads.items()}
        # pooling loses where things are; the features stay those of the other attributes
        return logits | {"facing": self.facing(x.detach().flatten(1))}

    @torch.no_grad()
    def judge(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b 5"]:
        """Return the most likely index of each attribute, in the order of ``ATTRIBUTES``."""
        logits = self(images)
        return torch.stack([logits[name].argmax(1) for name in ATTRIBUTES], 1)

    @torch.no_grad()
    def judge_facing(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b"]:
        """Return the index into ``FACINGS`` of images from the side."""
        return self(images)["facing"].argmax(1)


def _blur(x: Tensor, sigma: float) -> Tensor:
    r = max(1, int(3 * sigma))
    k = torch.exp(-(torch.arange(-r, r + 1, device=x.device) ** 2) / (2 * sigma**2))
    k = (k / k.sum()).view(1, 1, -1, 1).repeat(3, 1, 1, 1)
    x = F.conv2d(F.pad(x, (0, 0, r, r), mode="replicate"), k, groups=3)
    return F.conv2d(F.pad(x, (r, r, 0, 0), mode="replicate"), k.transpose(2, 3), groups=3)


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=rng).item()


def augment(x: Float[Tensor, "b 3 h w"], rng: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Degrade images slightly, so that their labels hold: blur (half of them), noise, contrast."""
    b = len(x)
    half = b // 2
    if half:
        sigma = 0.2 + 0.5 * torch.rand((), generator=rng).item()
        x = torch.cat([_blur(x[:half], sigma), x[half:]])
    gain = 1 + 0.16 * (torch.rand(b, 1, 1, 1, generator=rng) - 0.5)
    noise = 0.03 * torch.rand(b, 1, 1, 1, generator=rng) * torch.randn(x.shape, generator=rng)
    return ((x - 0.5) * gain + 0.5 + noise).clamp(0, 1)


def corrupt(
    x: Float[Tensor, "b 3 64 64"], other: Float[Tensor, "b 3 64 64"], rng: torch.Generator
) -> Float[Tensor, "b 3 64 64"]:
    """Turn images into images of no object, by sixths of the batch in six ways.

    They are blurred, blended, shuffled, warped, overlaid with smooth noise, or put together from
    halves of two images.

    Args:
        x: images in [0, 1].
        other: images to mix in, row by row; where one shows the same object from elsewhere, the
            result is a wrong view.
        rng: source of all randomness.
    """
    # a small batch has fewer chunks than there are ways
    rows = zip(_CORRUPTIONS, x.chunk(6), other.chunk(6), strict=False)
    return torch.cat([method(chunk, mixed, rng) for method, chunk, mixed in rows])


def _blurred(x: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
    return _blur(x, _uniform(1.8, 4.0, rng))


def _blended(x: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
    k = _uniform(0.35, 0.65, rng)
    return x * k + other * (1 - k)


def _shuffled(x: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
    patches = x.unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3)
    patches = patches[:, :, torch.randperm(16, generator=rng)].unflatten(2, (4, 4))
    return patches.permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


def _warped(x: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
    coarse = torch.randn(len(x), 2, 7, 7, generator=rng)
    flow = F.interpolate(coarse, (64, 64), mode="bicubic") * _uniform(0.12, 0.3, rng)
    axis = torch.linspace(-1, 1, 64)
    identity = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    grid = identity + flow.permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


def _overlaid(x: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
    coarse = torch.randn(len(x), 3, 16, 16, generator=rng)
    noise = F.interpolate(coarse, (64, 64), mode="bicubic")
    return (x + _uniform(0.25, 0.5, rng) * noise).clamp(0, 1)


def _halved(x: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
    left_right = torch.cat([x[..., :32], other[..., 32:]], -1)
    top_bottom = torch.cat([x[..., :32, :], other[..., 32:, :]], -2)
    return left_right if _uniform(0, 1, rng) < 0.5 else top_bottom


_CORRUPTIONS = (_blurred, _blended, _shuffled, _warped, _overlaid, _halved)


class _Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Evaluator()

    def forward(self, images: Tensor, labels: Tensor, facing: Tensor) -> dict[str, Tensor]:
        logits = self.net(images)
        real = labels[:, 0] != REJECT
        losses = {
            "object": F.cross_entropy(logits["object"].float(), labels[:, 0], label_smoothing=0.02)
        }
        for i, name in enumerate(ATTRIBUTES):
            if name != "object":
                losses[name] = F.cross_entropy(logits[name][real].float(), labels[real, i])
        # rows that show no side have the index -1; a batch may have none that do
        by_row = F.cross_entropy(
            logits["facing"].float(), facing, ignore_index=-1, reduction="none"
        )
        losses["facing"] = by_row.sum() / (facing >= 0).sum().clamp_min(1)
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


@dataclass(frozen=True)
class EvaluatorTask(Task[_Training]):
    """Training of the evaluator: of each batch, a quarter is corrupted and the rest augmented.

    Attributes:
        train_folder: renders to train on, see ``prepare_renders``.
        test_folder: renders for the previews.
        batch_size: images per worker and step.
        name: name of the checkpoint and log files.
        lr: peak learning rate.
        ema_decay: decay of the moving average of the weights.
    """

    train_folder: Path
    test_folder: Path
    batch_size: int = 96
    name: str = "evaluator"
    lr: float = 2e-3
    ema_decay: float = 0.998

    def build(self) -> _Training:
        return _Training()

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        images = load_images(self.train_folder)
        truth, facings, partners = _labels_and_partners(self.train_folder)
        rows = torch.randint(len(images), (self.batch_size,), generator=rng).numpy()
        num_corrupt = self.batch_size // 4
        x = images_to_tensor(images[rows])
        other = images_to_tensor(images[partners[rows[:num_corrupt]]])
        labels, facing = torch.from_numpy(truth[rows]), torch.from_numpy(facings[rows])
        labels[:num_corrupt, 0] = REJECT
        facing[:num_corrupt] = -1
        corrupted = corrupt(x[:num_corrupt], other, rng)
        return torch.cat([corrupted, augment(x[num_corrupt:], rng)]), labels, facing

    def preview(self, model: _Training, folder: Path, minute: float) -> dict[str, float]:
        images = images_to_tensor(load_images(self.test_folder)[:2000])
        return evaluator_accuracy(model.net, images, self.test_folder)


@cache
def _labels_and_partners(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the labels of a prepared folder and, per row, a row to mix it with.

    The labels are those of the attributes, ``[N, 5]``, and the facing, -1 where it does not show.

    The partner of an asymmetric object shows the same object, with the same attributes, from
    another view; any row is a partner of the rest.
    """
    scenes = load_scenes(folder)
    truth = scenes.labels()
    rng = np.random.default_rng(0)
    partner = rng.integers(0, len(truth), len(truth))
    sizes = [len(words) for words in ATTRIBUTES.values()][:4]
    keys = np.ravel_multi_index(truth[:, :4].T, sizes)
    order = np.argsort(keys, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        for row in group[scenes.asymmetric[group]]:
            other_views = group[truth[group, 4] != truth[row, 4]]
            if len(other_views):
                partner[row] = rng.choice(other_views)
    return truth, np.where(scenes.shows_facing, scenes.facing, -1), partner


def evaluator_accuracy(
    evaluator: Evaluator, images: Float[Tensor, "n 3 64 64"], folder: Path
) -> dict[str, float]:
    """Measure an evaluator on renders.

    Args:
        evaluator: the network.
        images: the first images of a prepared folder, in [0, 1].
        folder: the prepared folder, for the labels.

    Returns:
        Share of correct verdicts by attribute, ``view`` over objects whose views differ,
        ``facing`` over the sides of objects whose sides differ, and ``rejected``, the share of
        images in which no object is seen.
    """
    scenes = load_scenes(folder)[slice(0, len(images))]
    truth = torch.from_numpy(scenes.labels())
    verdicts = torch.cat([evaluator.judge(part) for part in images.split(250)])
    facing = torch.cat([evaluator.judge_facing(part) for part in images.split(250)])
    correct = (verdicts == truth).float()
    asymmetric = torch.from_numpy(scenes.asymmetric)
    shares = {name: round(correct[:, i].mean().item(), 4) for i, name in enumerate(ATTRIBUTES)}
    shares["view"] = round(correct[asymmetric, 4].mean().item(), 4)
    shows_facing = torch.from_numpy(scenes.shows_facing)
    hits = facing[shows_facing] == torch.from_numpy(scenes.facing)[shows_facing]
    shares["facing"] = round(hits.float().mean().item(), 4)
    shares["rejected"] = round((verdicts[:, 0] == REJECT).float().mean().item(), 4)
    return shares
