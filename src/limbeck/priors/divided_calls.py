"""A prior whose network calls are divided over processes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.condition import Condition
from limbeck.diffusion.prediction import Prediction
from limbeck.diffusion.prior import MultiViewPrior, Prior
from limbeck.system.processes import (
    is_divided,
    join_rows,
    num_processes,
    own_rows,
    take_rows,
)


def divide_calls(prior: Prior) -> Prior:
    """Return the prior with divided calls; the prior itself if there is one process.

    Every process must make the same calls with the same inputs, inside ``dividing``. Groups of
    views stay whole. The class of
    the result is a subclass of that of the prior, so that whatever asks for a kind of prior finds
    it. Both share everything else.

    Args:
        prior: the model.
    """
    if num_processes() == 1:
        return prior
    kind: Any = type(prior)

    def call(
        self: Any, xt: Float[Tensor, "b ..."], t: Float[Tensor, "b"], *conditions: Condition
    ) -> list[Prediction]:
        count, group = len(xt), 1
        if isinstance(self, MultiViewPrior) and any(c.camera is not None for c in conditions):
            group = self.group_size
        if count % group or not is_divided(count, group):
            return kind.__call__(self, xt, t, *conditions)
        rows = own_rows(count, group)
        own = [condition[rows] for condition in conditions]
        predictions = kind.__call__(self, take_rows(xt, group), t[rows], *own)
        # the rows of all processes are counted, as in a single one
        others = (count - (rows.stop - rows.start)) * len(conditions)
        self.call_counter.rows += others
        self.call_counter.grad_rows += others * torch.is_grad_enabled()
        return [
            Prediction(join_rows(found.x0, count, group), join_rows(found.eps, count, group))
            for found in predictions
        ]

    divided = copy.copy(prior)
    divided.__class__ = type(f"Divided{kind.__name__}", (kind,), {"__call__": call})
    return divided
