"""Options of a model that have no effect on its family, or cannot be had on its device."""

from __future__ import annotations

from typing import Protocol

from limbeck.diffusion.model_options import Model, RuntimeOptions


class OptionedPrior(Protocol):
    """What of a ``DiffusersPrior`` the checks read; see there."""

    model: Model
    runtime: RuntimeOptions
    device: str

    @property
    def takes_adapters(self) -> bool: ...
    @property
    def takes_pose_input(self) -> bool: ...
    @property
    def takes_image_guidance(self) -> bool: ...
    @property
    def extra_parts(self) -> tuple[str, ...]: ...


def check_model_options(prior: OptionedPrior) -> None:
    """Refuse options of other model families, before the weights are read.

    Args:
        prior: the model, of which only the options and the class are set.

    Raises:
        ValueError: if an option has no effect.
    """
    model, name = prior.model, prior.model.name
    for option in () if prior.takes_adapters else ("control", "ip_adapter"):
        if getattr(model, option):
            raise ValueError(
                f"{option} {getattr(model, option)}: {name} is of the family "
                f"{type(prior).__name__}, for which none is read: leave it out"
            )
    if model.vae and "vae" not in prior.extra_parts:
        raise ValueError(f"vae {model.vae}: {name} has no autoencoder to replace: leave it out")
    if model.pose_input != "auto" and not prior.takes_pose_input:
        raise ValueError(
            f"pose_input {model.pose_input} is for models of the family of Zero123, which {name} "
            "is not: leave it out"
        )
    if model.image_guidance is not None and not prior.takes_image_guidance:
        raise ValueError(
            f"image_guidance {model.image_guidance} is for models that edit images by "
            f"instructions, which {name} is not: leave it out"
        )


def check_runtime_options(prior: OptionedPrior) -> None:
    """Refuse ways of execution that the device or the family does not have.

    Args:
        prior: the model, of which only the options, the device and the class are set.

    Raises:
        ValueError: if an option cannot be had.
    """
    runtime = prior.runtime
    if runtime.cpu_offload and prior.device == "cpu":
        raise ValueError(
            "cpu_offload moves weights between a GPU and host memory: leave it out on device cpu"
        )
    if runtime.compile == "graphs" and not prior.device.startswith("cuda"):
        raise ValueError(
            f"compile graphs needs device cuda, not {prior.device}: use --runtime.compile on"
        )
    for option in ("vae_slicing", "vae_tiling", "gradient_checkpointing"):
        if getattr(runtime, option) and "vae" not in prior.extra_parts:
            raise ValueError(f"{prior.model.name} has no autoencoder for {option}: leave it out")
