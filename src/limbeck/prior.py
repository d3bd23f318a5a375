"""The one face every frozen model wears, exact or learned, and the guidance that is said once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.prediction import Kind, Prediction
from limbeck.schedule import NoiseSchedule

Precision = Literal["auto", "float32", "bfloat16", "float16"]  #: of frozen weights


@dataclass(frozen=True)
class Parts:
    """What is changed of a model that is read from files.

    lora: a LoRA of your own in the layout of diffusers, peft or kohya, which becomes part of the frozen weights. scale: of that
    LoRA. vae: folder or hub id of another autoencoder of the same latents, a tiny one of the TAESD layout too. config: pipeline
    folder or hub id whose configurations and tokenizers belong to a checkpoint that is one file. size: side in pixels of the
    pictures; 0 for what the files say. distilled: guidance that the network itself is told, where it was distilled so (Flux dev);
    3.5 if left out.
    """

    lora: Path | None = None
    scale: float = 1.0
    vae: str = ""
    config: str = ""
    size: int = 0
    distilled: float | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size is a side in pixels, or 0, not {self.size}")
        if self.distilled is not None and self.distilled < 0:
            raise ValueError(f"distilled must not be negative, not {self.distilled}")


@dataclass(frozen=True)
class Running:
    """How a model is run: what it costs, and not what it says.

    compile: on makes each network call one graph per shape of input, which takes minutes at its first call and needs a C++ compiler
    on a CPU; there it was measured to pay for SDS in bfloat16. graphs also replays it without the host (CUDA graphs). layout: of
    weights and pictures in memory; auto takes what was measured to be faster. slicing: the autoencoder sees one picture after the
    other. tiling: and each in overlapping tiles, which shows a little where they meet. checkpointing: the autoencoder's activations
    are computed again for the gradient and not kept. offload: the network waits in the host's memory while texts and pictures are
    encoded or decoded, the autoencoder at all other times.
    """

    compile: Literal["off", "on", "graphs"] = "off"
    layout: Literal["auto", "plain", "channels-last"] = "auto"
    slicing: bool = False
    tiling: bool = False
    checkpointing: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        if self.offload and self.compile == "graphs":
            raise ValueError("offload moves weights, and compile graphs needs them where they were: choose one")


@dataclass(frozen=True)
class Condition:
    """What a prior is told about each row: for a text model the token features ``[B, L, D]``, for a mixture class log-weights
    ``[B, K]``.

    pooled: one vector per row ``[B, P]`` beside the tokens, for a model that hears both. adapters: the low-rank adapters these rows
    pass through, None for the frozen network alone. pose: camera to world of each row ``[B, 4, 4]``, heard by a critic that knows
    cameras and by nobody else. bare: the same rows without the words of a side, where those have some.
    """

    data: Float[Tensor, "b ..."]
    adapters: object | None = None
    pooled: Float[Tensor, "b p"] | None = None
    pose: Float[Tensor, "b 4 4"] | None = None
    bare: Condition | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        pooled, pose = (None if part is None else part[rows] for part in (self.pooled, self.pose))
        return replace(self, data=self.data[rows], pooled=pooled, pose=pose, bare=None if self.bare is None else self.bare[rows])

    @property
    def unsided(self) -> Condition:
        """The same rows without the words of a side: what is heard by a critic that is told the camera itself."""
        return self if self.bare is None else replace(self.bare, adapters=self.adapters, pose=self.pose)

    def through(self, adapters: object) -> Condition:
        """The same words, asked of a critic that shares the prior's network."""
        return replace(self, adapters=adapters)

    def then(self, other: Condition) -> Condition:
        """These rows and, below them, those of another: for two x_t in one call. ValueError where only one has adapters."""
        if self.adapters is not other.adapters:
            raise ValueError("rows through adapters and rows through others do not join: ask about them side by side")
        return self._both(other, lambda a, b: torch.cat([a, b]))

    def where(self, kept: Bool[Tensor, "b"], other: Condition) -> Condition:
        """These rows where ``kept``, elsewhere those of another."""
        return self._both(other, lambda a, b: torch.where(kept.view(-1, *[1] * (a.ndim - 1)), a, b))

    def lerp(self, other: Condition, share: Float[Tensor, "b"]) -> Condition:
        """These rows led towards those of another by a share per row."""
        led = lambda a, b: torch.lerp(a, b, share.to(a).view(-1, *[1] * (a.ndim - 1)))  # noqa: E731
        return self._both(other, lambda a, b: torch.where(a == b, a, led(a, b)))  # log-weights may be -inf in both

    def _both(self, other: Condition, join: Callable[[Tensor, Tensor], Tensor]) -> Condition:
        pooled = None if self.pooled is None or other.pooled is None else join(self.pooled, other.pooled)
        pose = None if self.pose is None or other.pose is None else join(self.pose, other.pose)
        bare = None if self.bare is None and other.bare is None else self.unsided._both(other.unsided, join)
        return replace(self, data=join(self.data, other.data), pooled=pooled, pose=pose, bare=bare)


@dataclass(frozen=True)
class Conditions:
    """A prompt as the prior hears it: ``pos`` the text, ``null`` the empty or negative text it is guided away from.

    against: texts to keep away from sideways only (Perp-Neg), each with its weight per row. k: denoising steps behind every
    prediction, see ``guided``.
    """

    pos: Condition
    null: Condition
    against: tuple[tuple[Condition, Float[Tensor, "b"]], ...] = ()
    k: int = 1

    def __getitem__(self, rows: Tensor | slice) -> Conditions:
        return Conditions(self.pos[rows], self.null[rows], tuple((c[rows], w[rows]) for c, w in self.against), self.k)

    def then(self, other: Conditions) -> Conditions:
        """These rows and, below them, those of another. ValueError unless both have as many steps and texts to keep away from."""
        if (self.k, len(self.against)) != (other.k, len(other.against)):
            told = f"k {self.k} and {other.k}, texts to keep away from {len(self.against)} and {len(other.against)}"
            raise ValueError(f"conditions do not join: {told}")
        both = tuple((a.then(b), torch.cat([v, w])) for (a, v), (b, w) in zip(self.against, other.against, strict=True))
        return Conditions(self.pos.then(other.pos), self.null.then(other.null), both, self.k)

    @property
    def plain(self) -> Conditions:
        """The two texts alone, for one step: what a critic hears."""
        return Conditions(self.pos, self.null)


@dataclass
class Meter:
    """Network passes so far: ``calls`` of the network, ``rows`` through it, and how many of these rows kept a graph.

    graphs: compiled so far, where the network is. warming: seconds that making them took, to be told apart from a run's own.
    """

    calls: int = 0
    rows: int = 0
    trained: int = 0
    graphs: int = 0
    warming: float = 0.0

    def count(self, rows: int) -> None:
        self.calls += 1
        self.rows += rows
        self.trained += rows * torch.is_grad_enabled()


@runtime_checkable
class Prior(Protocol):
    """A frozen model as one callable. Images are [0, 1] float32 NCHW outside; casts happen only inside."""

    @property
    def schedule(self) -> NoiseSchedule: ...

    @property
    def kind(self) -> Kind:
        """The parametrisation its network was trained in, and its critic is."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one x0: (channels, height, width), or (dimension,) for a plain mixture."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of what ``encode`` takes by default."""
        ...

    @property
    def unit(self) -> int:
        """Other heights and widths of an image must be multiples of it; 0 where there are no others."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def meter(self) -> Meter:
        """Network passes so far."""
        ...

    def __call__(self, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition) -> list[Prediction]:
        """Predictions at x_t under each condition, all in one network call, float32 (float64 for exact priors fed float64)."""
        ...

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        """x0 of images in [0, 1], differentiable."""
        ...

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] of x0."""
        ...

    def condition(self, prompts: Sequence[str]) -> Condition:
        """One row per prompt; the empty string is the unconditional row. Cached."""
        ...


@runtime_checkable
class Attentive(Prior, Protocol):
    """A prior with a network whose attention can be looked at."""

    def attending(self) -> AbstractContextManager[list[Float[Tensor, "r c h w"]]]:
        """While it is open, every call appends what each self-attention layer of the decoder answers, all rows, in the order of the
        layers. Gradients flow; afterwards the network is as it was."""
        ...


class Derived:
    """A prior made from another: of its space, with answers of its own. Subclasses are called like any prior."""

    def __init__(self, prior: Prior):
        self.schedule: NoiseSchedule = prior.schedule
        self.kind: Kind = prior.kind
        self.shape, self.image_size, self.unit = prior.shape, prior.image_size, prior.unit
        self.device, self.meter = prior.device, Meter()
        self.encode, self.decode, self.condition = prior.encode, prior.decode, prior.condition


def asked(told: Conditions, scale: float) -> list[Condition]:
    """The conditions guidance needs: one at scale 1 or 0, else null and pos; all of them where some are to be kept away from."""
    if told.against:
        return [told.null, told.pos, *(text for text, _ in told.against)]
    if scale == 1:
        return [told.pos]
    return [told.null] if scale == 0 else [told.null, told.pos]


def combined(told: Conditions, answers: Sequence[Prediction], scale: float) -> Prediction:
    """null + scale (pos - null), from the answers to ``asked``.

    With texts to keep away from it is Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968, eq. 7): with d = pos - null and
    n_i = neg_i - null, null + scale (d - sum_i w_i (n_i - <n_i, d> / <d, d> d)), the product over a row's eps.
    """
    if not told.against:
        return answers[0].lerp(answers[1], scale) if len(answers) == 2 else answers[0]
    null, pos, *negs = answers
    d = (pos.eps - null.eps).flatten(1)
    square = d.square().sum(1)
    shares = [torch.ones_like(square) - scale, torch.zeros_like(square) + scale]
    for neg, (_, weight) in zip(negs, told.against, strict=True):
        w = scale * weight.to(square)
        # where the prompt says nothing, nothing is parallel to it
        along = torch.where(square > 0, ((neg.eps - null.eps).flatten(1) * d).sum(1) / square, 0.0)
        shares[0] = shares[0] + w * (1 - along)
        shares[1] = shares[1] + w * along
        shares.append(-w)
    return Prediction.mixed(answers, shares)


def finished(
    prior: Prior, said: Prediction, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], told: Conditions, scale: float
) -> Prediction:
    """What is left of ``told.k`` guided DDIM steps after the first, at times t (k-1)/k .. t/k; eps is what x_t then holds."""
    if told.k == 1:
        return said
    for left in range(told.k - 1, 0, -1):
        later = prior.schedule.snap(t * left / told.k)
        x = prior.schedule.noised(said.x0, said.eps, later)
        said = combined(told, prior(x, later, *asked(told, scale)), scale)
    return Prediction.of("x0", said.x0, xt, prior.schedule.alpha(t), prior.schedule.sigma(t))


def guided(prior: Prior, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], told: Conditions, scale: float) -> Prediction:
    """Guidance as diffusers counts it. Scale 1 and scale 0 cost one pass, any other two in one call; ``told.k`` times that."""
    return finished(prior, combined(told, prior(xt, t, *asked(told, scale)), scale), xt, t, told, scale)
