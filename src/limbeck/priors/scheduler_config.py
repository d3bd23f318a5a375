"""Prediction type and noise schedule from the scheduler file of a pipeline.

What cannot be read or represented is refused.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from typing import Any

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.utils import DummyObject
from jaxtyping import Float
from torch import Tensor

from limbeck.diffusion.prediction import PredictionType
from limbeck.diffusion.schedule import DiscreteSchedule, RectifiedFlowSchedule
from limbeck.priors.checkpoint_files import (
    CheckpointFiles,
    loading,
    number,
    positive_int,
)

_FILE = "scheduler_config.json"
_MAX_TIMESTEPS = 100_000
#: By the names of diffusers.
_PREDICTION_TYPES: dict[str, PredictionType] = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
}
#: Options of a flow scheduler that change the path of sampling in ways not implemented here.
_UNSUPPORTED_FLOW_OPTIONS = (
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


def _scheduler_options(files: CheckpointFiles) -> tuple[str, dict[str, Any]]:
    """Class of the scheduler and its options; the class has defaults for what the file omits."""
    config = files.read_config("scheduler", _FILE)
    name = config.get("_class_name", "")
    known = isinstance(name, str) and name.isidentifier()
    cls = getattr(diffusers, name, None) if known else None
    if not inspect.isclass(cls):
        raise ValueError(
            f"{files.name}: its scheduler {name or 'has no _class_name and'!s:.60} is not one of "
            f"diffusers {diffusers.__version__}"
        )
    if isinstance(cls, DummyObject):  # needs a package that is not installed
        return name, config
    parameters = inspect.signature(cls).parameters
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    return name, defaults | {key: value for key, value in config.items() if key in parameters}


def _package_advice(name: str) -> str:
    """What to install for the defaults of a scheduler whose package is missing; else empty."""
    backends = getattr(getattr(diffusers, name), "_backends", [])
    packages = [package for package in backends if importlib.util.find_spec(package) is None]
    return f" without its package: pip install {' '.join(packages)}" if packages else ""


def read_discrete_schedule(files: CheckpointFiles) -> tuple[PredictionType, DiscreteSchedule]:
    """Read prediction type and betas, rescaled to zero terminal SNR if the file says so.

    Raises:
        ValueError: if one of them cannot be read, or weights of a single file contradict it.
    """
    name, config = _scheduler_options(files)
    required = (
        "prediction_type",
        "beta_schedule",
        "beta_start",
        "beta_end",
        "num_train_timesteps",
    )
    missing = [key for key in required if key not in config]
    if missing:
        raise ValueError(
            f"{files.name}: its {name} has no {', '.join(missing)}, so its noise schedule cannot "
            f"be read{_package_advice(name)}"
        )
    type_name = config["prediction_type"]
    if not isinstance(type_name, str) or type_name not in _PREDICTION_TYPES:
        raise ValueError(
            f"{files.name}: prediction_type must be one of {', '.join(_PREDICTION_TYPES)}, "
            f"not {type_name!r:.60}"
        )
    prediction_type = _PREDICTION_TYPES[type_name]
    alphas_cumprod = _alphas_cumprod(files, config)
    zero_snr = float(alphas_cumprod[-1]) == 0
    if prediction_type == "eps" and zero_snr:
        raise ValueError(
            f"{files.name}: prediction_type epsilon does not determine x0 at zero terminal SNR, "
            "which rescale_betas_zero_snr sets"
        )
    _check_weight_names(files, type_name, zero_snr)
    return prediction_type, DiscreteSchedule(tuple(alphas_cumprod.double().tolist()))


def _alphas_cumprod(files: CheckpointFiles, config: dict[str, Any]) -> Float[Tensor, "t"]:
    """Return the products of 1 - beta up to each tick, which fall from 1 to 0 or above."""
    place = files.place("scheduler", _FILE)
    if positive_int(config, "num_train_timesteps", place) > _MAX_TIMESTEPS:
        raise ValueError(
            f"{place}: num_train_timesteps must be at most {_MAX_TIMESTEPS}, not "
            f"{config['num_train_timesteps']}"
        )
    try:
        with loading(place, passed_on=(NotImplementedError,)):
            alphas_cumprod = DDPMScheduler.from_config(config).alphas_cumprod
    except NotImplementedError as error:
        raise ValueError(
            f"{files.name}: beta_schedule {config['beta_schedule']!r:.60} is not known to diffusers"
        ) from error
    falls = alphas_cumprod[1:] < alphas_cumprod[:-1]
    if not bool(falls.all() and alphas_cumprod[-1] >= 0 and 0 < alphas_cumprod[0] < 1):
        raise ValueError(
            f"{place}: beta_start {config['beta_start']!r:.40} and beta_end "
            f"{config['beta_end']!r:.40} must give betas between 0 and 1"
        )
    return alphas_cumprod


def _check_weight_names(files: CheckpointFiles, type_name: str, zero_snr: bool) -> None:
    """Refuse a configuration that the weights of a single file contradict by their names.

    Args:
        files: the checkpoint.
        type_name: prediction type of the configuration.
        zero_snr: whether its schedule ends at zero terminal SNR.
    """
    weight_names = files.weight_names()
    if "v_pred" in weight_names and _PREDICTION_TYPES[type_name] != "v":
        raise ValueError(
            f"{files.name} has a weight v_pred, but {files.folder} has prediction_type "
            f"{type_name}: give another configuration with --model.config"
        )
    if "ztsnr" in weight_names and not zero_snr:
        raise ValueError(
            f"{files.name} has a weight ztsnr, but {files.folder} has no zero terminal SNR: "
            "give another configuration with --model.config"
        )


def one_step_scheduler(files: CheckpointFiles) -> DDIMScheduler:
    """Return the scheduler whose only step, at the last timestep, is the x0 prediction there.

    Raises:
        ValueError: if the scheduler of the pipeline has no betas.
    """
    prediction_type, schedule = read_discrete_schedule(files)
    _, config = _scheduler_options(files)
    names = {ours: name for name, ours in _PREDICTION_TYPES.items()}
    betas = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")
    scheduler = DDIMScheduler(
        **{key: config[key] for key in betas},
        trained_betas=config.get("trained_betas"),
        rescale_betas_zero_snr=bool(config.get("rescale_betas_zero_snr")),
        prediction_type=names[prediction_type],
        timestep_spacing="trailing",  # a single step begins at the last timestep
        set_alpha_to_one=True,  # and ends at x0
        clip_sample=False,
        steps_offset=1,  # without effect on this spacing; diffusers warns of another value
    )
    own = torch.tensor(schedule.alphas_cumprod)
    if not torch.allclose(scheduler.alphas_cumprod, own, rtol=1e-5, atol=0):
        raise ValueError(
            f"{files.name}: its noise schedule cannot be written as a DDIM scheduler of diffusers"
        )
    return scheduler


def read_flow_schedule(
    files: CheckpointFiles, num_tokens: int, ends_at_last: bool, mu: float | None = None
) -> RectifiedFlowSchedule:
    """Read the shift of a flow-matching scheduler.

    Args:
        files: the files of the pipeline.
        num_tokens: tokens of an image, on which a dynamic shift depends.
        ends_at_last: whether the pipeline leaves the spacing of its steps to the scheduler, whose
            last step begins at its last time.
        mu: logarithm of a dynamic shift, if the pipeline does not compute it from the file.

    Raises:
        ValueError: if the scheduler is of another class or has options that are not implemented.
    """
    name, config = _scheduler_options(files)
    if name != FlowMatchEulerDiscreteScheduler.__name__:
        raise ValueError(
            f"{files.name}: its scheduler is a {name}; this model family needs "
            f"{FlowMatchEulerDiscreteScheduler.__name__}"
        )
    unsupported = [key for key in _UNSUPPORTED_FLOW_OPTIONS if config.get(key)]
    if unsupported:
        raise ValueError(
            f"{files.name}: its scheduler sets {', '.join(unsupported)}, which is not supported"
        )
    place = files.place("scheduler", _FILE)
    last = 1 / positive_int(config, "num_train_timesteps", place)
    terminal = number(config, "shift_terminal", place) if config["shift_terminal"] else 0.0
    if not config["use_dynamic_shifting"]:
        shift = _positive(config, "shift", place)
        # the last of diffusers' sampling times is shifted twice
        shifted_last = shift * last / (1 + (shift - 1) * last)
        return RectifiedFlowSchedule(shift, shifted_last if ends_at_last else 0.0, terminal)
    if mu is None:
        mu = _dynamic_mu(config, num_tokens, place)
    kind = config["time_shift_type"]
    if kind not in ("exponential", "linear"):
        raise ValueError(
            f"{place}: time_shift_type must be exponential or linear, not {kind!r:.60}"
        )
    shift = math.exp(min(mu, 80.0)) if kind == "exponential" else mu
    _positive({"shift": shift}, "shift", place)
    return RectifiedFlowSchedule(shift, last if ends_at_last else 0.0, terminal)


def _dynamic_mu(config: dict[str, Any], num_tokens: int, place: str) -> float:
    """Logarithm of the shift, which grows linearly with the tokens of the image."""
    low, high, base, largest = (
        number(config, key, place)
        for key in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    )
    if low >= high:
        raise ValueError(f"{place}: max_image_seq_len must exceed base_image_seq_len {low}")
    return base + (largest - base) * (num_tokens - low) / (high - low)


def read_flow_solver_schedule(files: CheckpointFiles) -> RectifiedFlowSchedule:
    """Read the shift of a DPM-Solver on the sigmas of a flow (SANA), or of a flow scheduler.

    Raises:
        ValueError: if the scheduler is another one.
    """
    name, config = _scheduler_options(files)
    if name == FlowMatchEulerDiscreteScheduler.__name__:
        return read_flow_schedule(files, num_tokens=0, ends_at_last=True)
    required = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    found = {key: config.get(key) for key in required}
    if name != DPMSolverMultistepScheduler.__name__ or found != required:
        options = ", ".join(f"{key} {value!r:.40}" for key, value in found.items())
        raise ValueError(
            f"{files.name}: its scheduler is a {name} with {options}; this model family needs "
            f"{DPMSolverMultistepScheduler.__name__} with flow_prediction and use_flow_sigmas, or "
            f"{FlowMatchEulerDiscreteScheduler.__name__}"
        )
    return RectifiedFlowSchedule(_positive(config, "flow_shift", files.place("scheduler", _FILE)))


def _positive(config: dict[str, Any], key: str, place: str) -> float:
    value = number(config, key, place)
    if value <= 0:
        raise ValueError(f"{place}: {key} must be positive, not {value}")
    return float(value)
