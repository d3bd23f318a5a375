"""Conditions: what a prior is conditioned on, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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
    view_free: Condition | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        pooled, pose = (None if part is None else part[rows] for part in (self.pooled, self.pose))
        return replace(
            self,
            data=self.data[rows],
            pooled=pooled,
            pose=pose,
            view_free=None if self.view_free is None else self.view_free[rows],
        )

    @property
    def without_view(self) -> Condition:
        """The same rows without the words of a side: what is heard by a critic that is told the camera itself."""
        return (
            self
            if self.view_free is None
            else replace(self.view_free, adapters=self.adapters, pose=self.pose)
        )

    def with_adapters(self, adapters: object) -> Condition:
        """The same words, asked of a critic that shares the prior's network."""
        return replace(self, adapters=adapters)

    def concat(self, other: Condition) -> Condition:
        """These rows and, below them, those of another: for two x_t in one call. ValueError where only one has adapters."""
        if self.adapters is not other.adapters:
            raise ValueError(
                "rows through adapters and rows through others do not join: ask about them side by side"
            )
        return self._both(other, lambda a, b: torch.cat([a, b]))

    def where(self, kept: Bool[Tensor, "b"], other: Condition) -> Condition:
        """These rows where ``kept``, elsewhere those of another."""
        return self._both(other, lambda a, b: torch.where(kept.view(-1, *[1] * (a.ndim - 1)), a, b))

    def lerp(self, other: Condition, share: Float[Tensor, "b"]) -> Condition:
        """These rows led towards those of another by a share per row."""
        led = lambda a, b: torch.lerp(a, b, share.to(a).view(-1, *[1] * (a.ndim - 1)))  # noqa: E731
        return self._both(
            other, lambda a, b: torch.where(a == b, a, led(a, b))
        )  # log-weights may be -inf in both

    def _both(self, other: Condition, join: Callable[[Tensor, Tensor], Tensor]) -> Condition:
        pooled = (
            None if self.pooled is None or other.pooled is None else join(self.pooled, other.pooled)
        )
        pose = None if self.pose is None or other.pose is None else join(self.pose, other.pose)
        bare = (
            None
            if self.view_free is None and other.view_free is None
            else self.without_view._both(other.without_view, join)
        )
        return replace(
            self, data=join(self.data, other.data), pooled=pooled, pose=pose, view_free=bare
        )


@dataclass(frozen=True)
class Conditions:
    """A prompt as the prior hears it: ``pos`` the text, ``null`` the empty or negative text it is guided away from.

    against: texts to keep away from sideways only (Perp-Neg), each with its weight per row. k: denoising steps behind every
    prediction, see ``guided``.
    """

    pos: Condition
    null: Condition
    perp_neg: tuple[tuple[Condition, Float[Tensor, "b"]], ...] = ()
    denoise_steps: int = 1

    def __getitem__(self, rows: Tensor | slice) -> Conditions:
        return Conditions(
            self.pos[rows],
            self.null[rows],
            tuple((c[rows], w[rows]) for c, w in self.perp_neg),
            self.denoise_steps,
        )

    def concat(self, other: Conditions) -> Conditions:
        """These rows and, below them, those of another. ValueError unless both have as many steps and texts to keep away from."""
        if (self.denoise_steps, len(self.perp_neg)) != (other.denoise_steps, len(other.perp_neg)):
            told = f"k {self.denoise_steps} and {other.denoise_steps}, texts to keep away from {len(self.perp_neg)} and {len(other.perp_neg)}"
            raise ValueError(f"conditions do not join: {told}")
        both = tuple(
            (a.concat(b), torch.cat([v, w]))
            for (a, v), (b, w) in zip(self.perp_neg, other.perp_neg, strict=True)
        )
        return Conditions(
            self.pos.concat(other.pos), self.null.concat(other.null), both, self.denoise_steps
        )

    @property
    def plain(self) -> Conditions:
        """The two texts alone, for one step: what a critic hears."""
        return Conditions(self.pos, self.null)
