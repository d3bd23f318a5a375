"""The evaluator: a small network trained on renders that names object, colour, pattern, background and view, or rejects.

A plain classifier calls any blotch a car. This one has a fifteenth object, *none of them*, and learns it from blurred, noisy,
shuffled, blended and view-inconsistent pictures.
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

from limbeck.world.render_cache import as_images, load_pictures, load_scenes
from limbeck.world.scene import ATTRIBUTES, OBJECTS
from limbeck.world.trainer import Task

REJECT = len(OBJECTS)  #: index of "none of the objects"
FEATURES = 160


class _Block(nn.Module):
    def __init__(self, wide: int, out: int, stride: int):
        super().__init__()
        self.a = nn.Conv2d(wide, out, 3, stride, 1, bias=False)
        self.b = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.na, self.nb = nn.GroupNorm(8, out), nn.GroupNorm(8, out)
        self.skip = nn.Conv2d(wide, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.skip(x) + self.nb(self.b(F.silu(self.na(self.a(x))))))


class Evaluator(nn.Module):
    """Images in [0, 1] to features and one logit vector per attribute."""

    def __init__(self) -> None:
        super().__init__()
        wide = (24, 24, 64, 112, FEATURES)
        self.stem = nn.Conv2d(3, wide[0], 3, 2, 1)
        self.blocks = nn.Sequential(*(_Block(a, b, 2 if b > 24 else 1) for a, b in pairwise(wide)))
        self.norm = nn.LayerNorm(FEATURES)
        sizes = {name: len(words) + (name == "object") for name, words in ATTRIBUTES.items()}
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, n) for name, n in sizes.items()})

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        """Pooled features, the space of the Frechet distance. Any size is resized to 64 x 64."""
        if images.shape[-2:] != (64, 64):
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
        x = self.blocks(self.stem(images * 2 - 1))
        return self.norm(x.mean((2, 3)) + x.amax((2, 3)))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """Logits by attribute; ``object`` has one more class, ``REJECT``."""
        f = self.features(images)
        return {name: head(f) for name, head in self.heads.items()}

    @torch.no_grad()
    def judge(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b 5"]:
        """The most likely index of each attribute, in the order of ``ATTRIBUTES``."""
        logits = self(images)
        return torch.stack([logits[name].argmax(1) for name in ATTRIBUTES], 1)


def _blur(x: Tensor, sigma: float) -> Tensor:
    r = max(1, int(3 * sigma))
    k = torch.exp(-(torch.arange(-r, r + 1, device=x.device) ** 2) / (2 * sigma**2))
    k = (k / k.sum()).view(1, 1, -1, 1).repeat(3, 1, 1, 1)
    x = F.conv2d(F.pad(x, (0, 0, r, r), mode="replicate"), k, groups=3)
    return F.conv2d(F.pad(x, (r, r, 0, 0), mode="replicate"), k.transpose(2, 3), groups=3)


def wear(x: Float[Tensor, "b 3 h w"], rng: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Light wear that must not change the verdict: slight blur, noise, contrast."""
    b = len(x)
    half = b // 2
    x = (
        torch.cat([_blur(x[:half], 0.2 + 0.5 * torch.rand((), generator=rng).item()), x[half:]])
        if half
        else x
    )
    gain = 1 + 0.16 * (torch.rand(b, 1, 1, 1, generator=rng) - 0.5)
    noise = 0.03 * torch.rand(b, 1, 1, 1, generator=rng) * torch.randn(x.shape, generator=rng)
    return ((x - 0.5) * gain + 0.5 + noise).clamp(0, 1)


def spoil(
    x: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"], rng: torch.Generator
) -> Float[Tensor, "b 3 h w"]:
    """Pictures of no object: blurred, blended, shuffled, warped, noisy, or two pictures side by side.

    ``other`` holds pictures to mix in; where it shows the same object from elsewhere, the result is a wrong view.
    """
    parts = list(x.chunk(6))
    mixed = list(other.chunk(6))
    u = lambda lo, hi: lo + (hi - lo) * torch.rand((), generator=rng).item()  # noqa: E731
    parts[0] = _blur(parts[0], u(1.8, 4.0))
    if len(parts) > 1:
        k = u(0.35, 0.65)
        parts[1] = parts[1] * k + mixed[1] * (1 - k)
    if len(parts) > 2:  # patches shuffled
        p = parts[2].unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3)
        p = p[:, :, torch.randperm(16, generator=rng)].unflatten(2, (4, 4))
        parts[2] = p.permute(0, 1, 2, 4, 3, 5).reshape(parts[2].shape)
    if len(parts) > 3:  # a strong smooth warp
        n = len(parts[3])
        field = F.interpolate(torch.randn(n, 2, 7, 7, generator=rng), (64, 64), mode="bicubic") * u(
            0.12, 0.3
        )
        axis = torch.linspace(-1, 1, 64)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1) + field.permute(
            0, 2, 3, 1
        )
        parts[3] = F.grid_sample(parts[3], grid, padding_mode="border", align_corners=True)
    if len(parts) > 4:
        rough = F.interpolate(
            torch.randn(len(parts[4]), 3, 16, 16, generator=rng), (64, 64), mode="bicubic"
        )
        parts[4] = (parts[4] + u(0.25, 0.5) * rough).clamp(0, 1)
    if len(parts) > 5:
        half = torch.cat([parts[5][..., :32], mixed[5][..., 32:]], -1)
        stacked = torch.cat([parts[5][..., :32, :], mixed[5][..., 32:, :]], -2)
        parts[5] = half if u(0, 1) < 0.5 else stacked
    return torch.cat(parts)


class _Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Evaluator()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(images)
        real = labels[:, 0] != REJECT
        losses = {
            "object": F.cross_entropy(logits["object"].float(), labels[:, 0], label_smoothing=0.02)
        }
        for i, name in enumerate(ATTRIBUTES):
            if name != "object":
                losses[name] = F.cross_entropy(logits[name][real].float(), labels[real, i])
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}


@dataclass(frozen=True)
class EvaluatorTask(Task[_Training]):
    """Three quarters of a batch are worn renders, one quarter spoiled ones."""

    data: Path
    test: Path
    size: int = 96
    name: str = "evaluator"
    rate: float = 2e-3
    average: float = 0.998

    def build(self) -> _Training:
        return _Training()

    def batch(self, rng: torch.Generator, progress: float) -> tuple[Tensor, ...]:
        pictures, (truth, other) = load_pictures(self.data), _truth_and_partners(self.data)
        rows = torch.randint(len(pictures), (self.size,), generator=rng).numpy()
        bad = self.size // 4
        x = as_images(pictures[rows])
        mixed = as_images(pictures[other[rows[:bad]]])
        labels = torch.from_numpy(truth[rows])
        labels[:bad, 0] = REJECT
        return torch.cat([spoil(x[:bad], mixed, rng), wear(x[bad:], rng)]), labels

    def preview(self, model: _Training, folder: Path, minute: float) -> dict[str, float]:
        pictures = as_images(load_pictures(self.test)[:2000])
        return accuracy(model.net, pictures, self.test, 2000)


@cache
def _truth_and_partners(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``[N, 5]`` and, per row, a row to mix it with.

    The partner of an asymmetric object shows the same object, coloured the same, from another view; any row is a partner of the
    rest.
    """
    scenes = load_scenes(folder)
    truth = scenes.labels()
    rng = np.random.default_rng(0)
    partner = rng.integers(0, len(truth), len(truth))
    keys = np.ravel_multi_index(truth[:, :4].T, [len(words) for words in ATTRIBUTES.values()][:4])
    order = np.argsort(keys, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        for row in group[scenes.asymmetric[group]]:
            others = group[truth[group, 4] != truth[row, 4]]
            if len(others):
                partner[row] = rng.choice(others)
    return truth, partner


def accuracy(net: Evaluator, images: Tensor, folder: Path, count: int) -> dict[str, float]:
    """Share of right verdicts on the first ``count`` scenes of a folder; ``view`` over objects whose views differ."""
    scenes = load_scenes(folder)[slice(0, count)]
    truth = torch.from_numpy(scenes.labels())
    said = torch.cat([net.judge(part) for part in images.split(250)])
    right = (said == truth).float()
    telling = torch.from_numpy(scenes.asymmetric)
    out = {name: round(right[:, i].mean().item(), 4) for i, name in enumerate(ATTRIBUTES)}
    out["view"] = round(right[telling, 4].mean().item(), 4)
    out["rejected"] = round((said[:, 0] == REJECT).float().mean().item(), 4)
    return out
