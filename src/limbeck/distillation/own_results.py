"""Checks of what components of one's own return; those of Limbeck are left to its tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.config.discovery import is_own, name_of
from limbeck.config.own_errors import OwnCodeError


def describe_result(value: object) -> str:
    """A returned value in words, with dtype and shape if it is a tensor."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a tensor of {dtype} {list(value.shape)}"
    return "None" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def result_error(component: object, call: str, value: object, wanted: str) -> ValueError:
    """The error for a component that returned something else than its base class says.

    Args:
        component: the component.
        call: what was called, such as ``.fit``; empty for the component itself.
        value: what it returned.
        wanted: what it must return.
    """
    name = name_of(type(component))
    return OwnCodeError(f"{name}{call} returned {describe_result(value)}; it must return {wanted}")


def check_own_tensor(
    component: object, call: str, value: object, shape: Sequence[int], meaning: str
) -> None:
    """Check a tensor that a component of one's own returned; does not read its values.

    Args:
        component: the component; nothing is checked if it is one of Limbeck.
        call: what was called, such as ``.refine``; empty for the component itself.
        value: what it returned.
        shape: shape that is wanted.
        meaning: what the shape is, for the message.

    Raises:
        ValueError: if it is no tensor of floating-point numbers, or of another shape.
    """
    if not is_own(type(component)):
        return
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    if not (is_float and tuple(value.shape) == tuple(shape)):  # type: ignore[attr-defined]
        wanted = f"a tensor of floating-point numbers {list(shape)}, {meaning}"
        raise result_error(component, call, value, wanted)


def check_own_times(timesteps: object, t: Any, rows: int) -> None:
    """Check the times that timesteps of one's own returned, which are on the CPU.

    Raises:
        ValueError: if they are not one time in [0, 1] for each row.
    """
    if not is_own(type(timesteps)):
        return
    check_own_tensor(timesteps, "", t, (rows,), "a time in [0, 1] for each row")
    if t.device.type != "cpu" or not bool(((t >= 0) & (t <= 1)).all()):
        found = f"{t.min().item():.3g} to {t.max().item():.3g} on {t.device}"
        raise result_error(timesteps, "", found, f"times in [0, 1] on the CPU, {[rows]}")


def check_own_metrics(component: object, call: str, metrics: Any) -> None:
    """Check the scalars by name that a component of one's own returned.

    Raises:
        ValueError: if they are not a dict of scalar tensors.
    """
    if not is_own(type(component)):
        return
    wanted = "a dict of scalar tensors by name, such as {'loss': loss.detach()}, or {}"
    if not isinstance(metrics, dict):
        raise result_error(component, call, metrics, wanted)
    for name, value in metrics.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.numel() != 1:
            found = f"{name!r}: {describe_result(value)}"
            raise ValueError(
                f"{name_of(type(component))}{call} returned {{{found}}}; it must return {wanted}"
            )


def check_own_object(
    component: object, call: str, value: object, attributes: Sequence[str]
) -> None:
    """Check that an object returned by a component of one's own has what is used of it.

    Args:
        component: the component; nothing is checked if it is one of Limbeck.
        call: what was called, such as ``.build``.
        value: what it returned.
        attributes: names of methods and attributes that it needs.

    Raises:
        ValueError: if it lacks one.
    """
    if not is_own(type(component)):
        return
    lacking = [name for name in attributes if not _has(value, name)]
    if lacking:
        wanted = f"an object with {', '.join(attributes)}"
        raise result_error(component, call, value, f"{wanted}; it lacks {', '.join(lacking)}")


def _has(value: object, name: str) -> bool:
    try:
        getattr(value, name)
    except AttributeError:
        return False
    return True


def check_own_rewards(reward_fn: object, rewards: object, rows: int) -> None:
    """Check the rewards that a reward function of one's own returned.

    Args:
        reward_fn: the function, which may be a plain one.
        rewards: what it returned.
        rows: number of rows that it rated.

    Raises:
        ValueError: if they are not one number for each row.
    """
    is_float = isinstance(rewards, Tensor) and rewards.is_floating_point()
    if not (is_float and rewards.shape == torch.Size([rows])):  # type: ignore[attr-defined]
        name = getattr(reward_fn, "__qualname__", type(reward_fn).__qualname__)
        raise ValueError(
            f"the reward function {name} returned {describe_result(rewards)}; it must return a "
            f"tensor of floating-point numbers {[rows]}, one for each row"
        )
