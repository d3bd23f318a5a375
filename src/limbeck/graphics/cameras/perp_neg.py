"""Weights of Perp-Neg against the prompts of other views, by azimuth, as two projects publish them.

Both count the azimuth a in degrees from the front, mix the prompts of the two nearest of front,
side and back linearly, and take front and side as negative prompts.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

PerpNegRule = Literal["constant", "stable-dreamfusion", "threestudio"]

_FRONT_DECAY, _SIDE_DECAY, _CUT = 2.0, 10.0, 0.8  #: of stable-dreamfusion


def stable_dreamfusion_weights(
    azimuth: Float[Tensor, "b"],
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Weights of the prompts of front and side, of size 1 (stable-dreamfusion, LucidDreamer).

    With r = 1 at the front or at the side and 0 at the end of the quarter, the front weighs
    e^(-2 r) and the side e^(-10 (1 - r)); behind the side, 1 and e^(-10 r) / 2. A weight is 0 over
    the fifth of the quarter where it is smallest, so that of the front jumps by e^(-1.6).

    Args:
        azimuth: degrees from the front, in [0, 180].
    """
    behind = azimuth >= 90
    r = 1 - torch.where(behind, azimuth - 90, azimuth) / 90
    zero = torch.zeros_like(r)
    front = torch.where(r > _CUT, zero, (-_FRONT_DECAY * r).exp())
    side = torch.where(r < 1 - _CUT, zero, (-_SIDE_DECAY * (1 - r)).exp())
    side_behind = torch.where(r > _CUT, zero, 0.5 * (-_SIDE_DECAY * r).exp())
    return torch.where(behind, 1.0, front), torch.where(behind, side_behind, side)


def threestudio_weights(
    azimuth: Float[Tensor, "b"],
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Weights of the prompts of front and side (threestudio), which meet at 90 degrees.

    All are f(r) = a e^(-b r) + c with threestudio's defaults of a, b and c.

    Args:
        azimuth: degrees from the front, in [0, 180].
    """
    behind = azimuth >= 90
    r = torch.where(behind, 2 - azimuth / 90, 1 - azimuth / 90)
    front = torch.where(behind, _decay(r, 1.0, 0.5, 0.967), _decay(r, 4.0, 0.5, -2.426))
    side = torch.where(behind, _decay(r, 1.0, 0.5, -0.606), _decay(1 - r, 4.0, 0.5, -2.426))
    return front, side


def _decay(r: Float[Tensor, "b"], a: float, b: float, c: float) -> Float[Tensor, "b"]:
    return a * (-b * r).exp() + c
