"""What a pipeline's scheduler file says of the model: parametrisation, noise schedule, shift. What cannot be read is refused."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from limbeck.diffusion.prediction import PredictionType
from limbeck.diffusion.schedule import DiscreteSchedule, RectifiedFlowSchedule
from limbeck.priors.checkpoint_files import CheckpointFiles

_PREDICTION_TYPES: dict[str, PredictionType] = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
}  #: diffusers' words for parametrisations
#: Options of a flow scheduler that bend the path of sampling in a way this schedule does not follow.
_UNSUPPORTED_FLOW_OPTIONS = (
    "invert_sigmas",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


def _scheduler_options(files: CheckpointFiles) -> tuple[str, Any]:
    """The class the scheduler file names, and its options; what the file leaves out are the defaults of that class."""
    said = files.read_config("scheduler", "scheduler_config.json")
    name = said.get("_class_name", "")
    cls = vars(diffusers).get(name) or getattr(diffusers, name, None)
    if not name or cls is None:
        raise ValueError(
            f"{files.name}: its scheduler {name or 'has no _class_name and'} is not one of diffusers {diffusers.__version__}"
        )
    takes = inspect.signature(cls).parameters
    return name, {key: value.default for key, value in takes.items()} | {
        k: v for k, v in said.items() if k in takes
    }


def read_discrete_schedule(files: CheckpointFiles) -> tuple[PredictionType, DiscreteSchedule]:
    """Parametrisation and betas, rescaled to zero terminal signal where the file says so."""
    name, config = _scheduler_options(files)
    lacking = [
        key
        for key in ("prediction_type", "beta_schedule", "beta_start", "beta_end")
        if key not in config
    ]
    if lacking:
        raise ValueError(
            f"{files.name}: its {name} has no {', '.join(lacking)}, so its noise schedule cannot be read"
        )
    word = config["prediction_type"]
    if word not in _PREDICTION_TYPES:
        raise ValueError(
            f"{files.name}: prediction_type {word!r} is not known; known are {', '.join(_PREDICTION_TYPES)}"
        )
    try:
        table = DDPMScheduler.from_config(config).alphas_cumprod
    except NotImplementedError as error:
        raise ValueError(
            f"{files.name}: beta_schedule {config['beta_schedule']!r} is not known"
        ) from error
    if _PREDICTION_TYPES[word] == "eps" and float(table[-1]) == 0:
        raise ValueError(
            f"{files.name}: prediction_type epsilon says nothing where the signal ends, as rescale_betas_zero_snr has it"
        )
    marks = (
        files.weight_names()
    )  # some checkpoints of one file say what they are by weights of these names
    if "v_pred" in marks and _PREDICTION_TYPES[word] != "v":
        raise ValueError(
            f"{files.name} says that it predicts v, and {files.folder} {word}: name others with --model.config"
        )
    if "ztsnr" in marks and float(table[-1]) > 0:
        raise ValueError(
            f"{files.name} was trained to zero terminal signal, and {files.folder} is not: name others with --model.config"
        )
    return _PREDICTION_TYPES[word], DiscreteSchedule(tuple(table.double().tolist()))


def read_flow_schedule(files: CheckpointFiles, tokens: int, ends_at_last: bool) -> RectifiedFlowSchedule:
    """Shift of a flow-matching scheduler, for pictures of ``tokens`` tokens where it depends on their number.

    ends_at_last: whether the pipeline leaves the spacing of its steps to the scheduler, whose last step begins at its last time.
    """
    name, config = _scheduler_options(files)
    if name != FlowMatchEulerDiscreteScheduler.__name__:
        raise ValueError(
            f"{files.name}: its scheduler is a {name}, and this family reads {FlowMatchEulerDiscreteScheduler.__name__}"
        )
    bent = [key for key in _UNSUPPORTED_FLOW_OPTIONS if config.get(key)]
    if bent:
        raise ValueError(
            f"{files.name}: its scheduler sets {', '.join(bent)}, which this schedule does not follow"
        )
    last = 1 / config["num_train_timesteps"]
    if not config["use_dynamic_shifting"]:
        shift = float(config["shift"])
        # diffusers' list of steps ends at the shifted last time, and shifts it again
        return RectifiedFlowSchedule(
            shift, shift * last / (1 + (shift - 1) * last) if ends_at_last else 0.0
        )
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    mu = config["base_shift"] + (config["max_shift"] - config["base_shift"]) * (tokens - low) / (
        high - low
    )
    shift = math.exp(mu) if config["time_shift_type"] == "exponential" else mu
    return RectifiedFlowSchedule(shift, last if ends_at_last else 0.0)
