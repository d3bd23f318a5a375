"""Which view prompt each row of a step reads, in 3D."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.tensors import to_device


@dataclass(frozen=True)
class RowViews:
    """The view of each row, among the view prompts that every prompt has.

    Attributes:
        count: number of view prompts per prompt.
        nearest: nearest view of each row.
        second: next view of each row, towards which its prompt is interpolated. None: the nearest
            view's prompt is used.
        second_weight: weight of ``second``.
    """

    count: int
    nearest: Int[Tensor, "b"]
    second: Int[Tensor, "b"] | None = None
    second_weight: Float[Tensor, "b"] | None = None

    def __getitem__(self, rows: Tensor) -> RowViews:
        rows = to_device(rows, self.nearest.device)
        if self.second is None or self.second_weight is None:
            return replace(self, nearest=self.nearest[rows])
        return RowViews(self.count, self.nearest[rows], self.second[rows], self.second_weight[rows])

    def select(self, texts: Condition, prompt: Int[Tensor, "b"]) -> Condition:
        """The text of each row.

        Args:
            texts: one row per prompt and view, the views of a prompt next to each other.
            prompt: prompt index of each row.
        """
        first = prompt * self.count
        condition = texts[first + self.nearest]
        if self.second is None or self.second_weight is None:
            return condition
        return condition.lerp(texts[first + self.second], self.second_weight)
