"""Sample from a model, or from the critic or the generator of a run, into a folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.config.checks import check_options
from limbeck.config.comparison import differences
from limbeck.config.yaml import from_yaml, read_yaml, to_yaml
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import InstructionPrior, NovelViewPrior, Prior
from limbeck.diffusion.sampling import Sampling, sample_x0
from limbeck.distillation.critics.base import Critic
from limbeck.graphics.cameras.camera import orbit_cameras
from limbeck.graphics.export.png import check_image_values
from limbeck.metrics.run_scores import score_run
from limbeck.representations.generator import OneStepGenerator
from limbeck.runs.find_runs import find_folder
from limbeck.runs.folder_state import foreign_files
from limbeck.runs.generator_samples import check_generator, draw_from_generator, load_generator
from limbeck.runs.images import save_final_images
from limbeck.runs.notices_file import write_notices
from limbeck.runs.view_samples import (
    check_views,
    condition_rows,
    seen_together,
    view_conditions,
)
from limbeck.system.checkpoint import read_checkpoint
from limbeck.system.environment import free_bytes
from limbeck.system.files import write_text
from limbeck.system.finite import NonFiniteError
from limbeck.system.folder_lock import LOCK_FILE, folder_lock
from limbeck.system.notices import collect_notices
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

#: Options of a model that may differ when its critic is sampled: they are no weights of the network
#: that the critic changes, or, as a ControlNet and an image prompt, inputs beside it.
_NO_WEIGHTS = (
    "vae",
    "config",
    "guidance_embedding",
    "control",
    "control_kind",
    "control_scale",
    "control_image",
    "ip_adapter",
    "ip_image",
    "ip_scale",
    "ip_encoder",
)
_LEAST_IMAGE_BYTES = 1024  #: of one image, its noise and its x0
_BATCH = 32  #: images sampled at a time


def find_sampled_run(sampling: Sampling) -> Sampling:
    """The settings with the run that ``latest`` stands for as their critic or generator.

    Raises:
        ValueError: if the run of the critic is no folder, or that of the generator has none.
    """
    check_options(sampling)
    if sampling.critic is not None:
        folder = find_folder(sampling.critic)
        if not folder.is_dir():
            raise ValueError(f"critic {folder} is not a run folder")
        sampling = replace(sampling, critic=folder)
    if sampling.generator is not None:
        folder = find_folder(sampling.generator)
        check_generator(folder)
        sampling = replace(sampling, generator=folder)
    return sampling


def refuse_other_model(sampling: Sampling) -> None:
    """Raise ValueError if a critic or generator is sampled with another model than its run's.

    Both are a change of one model's weights: on another model of the same shape they would load
    and mean nothing.

    Args:
        sampling: its settings, with or without a critic or generator.
    """
    what = "critic" if sampling.generator is None else "generator"
    folder = sampling.critic or sampling.generator
    if folder is None or not (folder / "run.yaml").is_file():
        return
    model, other = read_yaml(Experiment, folder / "run.yaml").model, sampling.model
    if not (isinstance(model, Model) and isinstance(other, Model)):
        return
    same_weights = {name: getattr(model, name) for name in _NO_WEIGHTS}
    if found := differences(model, replace(other, **same_weights)):
        raise ValueError(
            f"the {what} of {folder} belongs to the model of its run (model.{found[0]}): "
            f"sample it with --model {model.name} and the same --model options"
        )


def load_critic(folder: Path, prior: Prior, camera: bool = False) -> Prior:
    """Load the critic of a run as a prior.

    Args:
        folder: run folder, finished or not.
        prior: the model of the run.
        camera: whether the critic must be conditioned on cameras.

    Raises:
        ValueError: if the run has no critic, or ``camera`` is set and its critic has no cameras.
    """
    if not (folder / "run.yaml").exists():
        raise ValueError(f"{folder} is not a run folder: it has no run.yaml")
    experiment = from_yaml(Experiment, (folder / "run.yaml").read_text(encoding="utf-8"))
    run = Run(experiment, prior, pretrain=False)
    tensors, metadata = read_checkpoint(folder / "checkpoint.safetensors")
    run.load(tensors, metadata["step"])
    critic = run.experiment.method.critic_prior(prior, run.state)
    if critic is None:
        method = type(run.experiment.method).__name__
        raise ValueError(f"{folder}: method {method} has no critic to sample from")
    if camera and not (isinstance(run.state, Critic) and run.state.camera):
        raise ValueError(f"{folder}: its critic is not conditioned on cameras; leave out --camera")
    return run.state.standalone() if isinstance(run.state, Critic) else critic


def _conditions(sampling: Sampling, prior: Prior) -> Conditions:
    """Conditions of each prompt, or of its views, with the camera pose if one is given."""
    if sampling.views > 1:
        return view_conditions(sampling, prior)
    count = len(sampling.prompts)
    empty = prior.condition([""] * count)
    negative = prior.condition([sampling.negative_prompt] * count).with_image_prompt_of(empty)
    conditions = Conditions(prior.condition(sampling.prompts), negative)
    if not sampling.camera:
        return conditions
    azimuth, elevation, distance = (torch.full((count,), value) for value in sampling.camera)
    # critics see the pose only, so any field of view will do
    camera = orbit_cameras(azimuth.deg2rad(), elevation.deg2rad(), distance, 40.0)
    pose = camera.pose.to(prior.device)
    return Conditions(replace(conditions.pos, pose=pose), replace(conditions.null, pose=pose))


def check_count_fits(sampling: Sampling) -> None:
    """Refuse so many images that they cannot fit into memory with any model.

    Raises:
        ValueError: if 1 KB for each would not fit.
    """
    _check_images_fit(sampling, _LEAST_IMAGE_BYTES)


def _check_fits(sampling: Sampling, prior: Prior) -> None:
    """Raise a ValueError if noise and images, all of which are kept, need more memory than free."""
    _check_images_fit(sampling, 4 * (math.prod(prior.shape) + 2 * 3 * math.prod(prior.image_size)))


def _check_images_fit(sampling: Sampling, image_bytes: int) -> None:
    count = len(sampling.prompts) * sampling.num_images
    required, free = image_bytes * count, free_bytes("cpu")
    if free is not None and required > free:
        raise ValueError(
            f"{count:,} images need {required / 1e9:.3g} GB and {free / 1e9:.3g} GB are free: "
            "use a smaller --num-images, and other seeds for more"
        )


def refuse_other_samples(folder: Path, sampling: Sampling) -> None:
    """Check that a folder is free, or that its samples were cut off and are the same.

    Raises:
        ValueError: otherwise.
    """
    mark, done = folder / "sample.yaml", (folder / "profile.json").exists()
    if not done and mark.exists() and mark.read_text(encoding="utf-8") == to_yaml(sampling):
        return
    if foreign_files(folder):
        raise ValueError(
            f"{folder} holds files already, and nothing is overwritten; name another folder with "
            "--out"
        )


def sample_to_folder(sampling: Sampling, prior: Prior, folder: Path) -> Path:
    """Sample images and write them with their settings, scores and cost.

    Args:
        sampling: prompts and settings.
        prior: the model.
        folder: gets final.png, final/, sample.yaml, scores.json and profile.json.

    Returns:
        ``folder/final.png``.

    Raises:
        ValueError: if the folder holds other files, or the images do not fit into memory.
    """
    check_options(sampling)
    refuse_other_model(sampling)
    _refuse_unsuitable(prior)
    _check_fits(sampling, prior)
    refuse_other_samples(folder, sampling)
    check_views(sampling, prior)
    source = (
        load_critic(sampling.critic, prior, bool(sampling.camera)) if sampling.critic else prior
    )
    generator = load_generator(sampling.generator, prior) if sampling.generator else None
    with collect_notices() as notices:
        conditions = _conditions(sampling, source)
    is_new = not folder.exists()
    try:
        with folder_lock(folder):  # held while the images are drawn, so that no others join them
            refuse_other_samples(folder, sampling)
            return _write_samples(sampling, prior, source, generator, conditions, notices, folder)
    except Exception:
        if is_new and not foreign_files(folder):
            with suppress(OSError):
                (folder / LOCK_FILE).unlink(missing_ok=True)
                folder.rmdir()
        raise


def _write_samples(
    sampling: Sampling,
    prior: Prior,
    source: Prior,
    generator: OneStepGenerator | None,
    conditions: Conditions,
    notices: Sequence[str],
    folder: Path,
) -> Path:
    """Draw the images of ``sample_to_folder`` and write all files."""
    rows_before, start = prior.call_counter.rows, time.perf_counter()
    if generator is None:
        images = _draw(sampling, source, prior, conditions)
    else:
        images = draw_from_generator(sampling, generator, prior, conditions.pos)
    seconds = time.perf_counter() - start
    # first: a folder that was left after a kill is recognized by it
    write_text(folder / "sample.yaml", to_yaml(sampling))
    save_final_images(folder, images, sampling.num_images)
    write_notices(notices, folder)
    scores = score_run(images, sampling.prompts, sampling.num_images)
    write_text(folder / "scores.json", json.dumps(scores, indent=1))
    profile = {
        "elapsed": seconds,
        "seconds": {"sampling": seconds},
        "evaluations": prior.call_counter.rows - rows_before,
    }
    write_text(folder / "profile.json", json.dumps(profile, indent=1))
    return folder / "final.png"


def _refuse_unsuitable(prior: Prior) -> None:
    """Refuse models without images, and those that need an image besides the prompt."""
    if len(prior.shape) != 3:
        raise ValueError(
            f"this model has no images, its samples are vectors of {prior.shape[0]} numbers: draw "
            "them in Python, as examples/one_step_exact.py does"
        )
    if isinstance(prior, NovelViewPrior):
        raise ValueError(
            "this model makes new views of the object of an image, not samples of a prompt: use it "
            "in limbeck run with --preset zero123 --image FILE"
        )
    if isinstance(prior, InstructionPrior):
        raise ValueError(
            "this model edits images by instructions: use limbeck edit IMAGE --target-prompt TEXT"
        )


def _draw(
    sampling: Sampling, source: Prior, prior: Prior, conditions: Conditions
) -> Float[Tensor, "n 3 h w"]:
    """Sample with the network of ``source`` and decode with ``prior``, a batch at a time."""
    rows = condition_rows(sampling).to(prior.device)
    rng = torch.Generator().manual_seed(sampling.seed)
    noise = torch.randn(len(rows), *prior.shape, generator=rng).to(prior.device)
    eta = 1.0 if sampling.sampler == "ancestral" else 0.0
    size = max(_BATCH // sampling.views, 1) * sampling.views
    batches = []
    with seen_together(sampling, source):
        for row, eps in zip(rows.split(size), noise.split(size), strict=True):
            x0 = sample_x0(
                source, conditions[row], eps, sampling.steps, sampling.guidance, eta, rng
            )
            if not bool(x0.isfinite().all()):
                raise NonFiniteError(None, "a sampled x0", {"x0": x0})
            batches.append(prior.decode(x0).detach())
            check_image_values(batches[-1])
    return torch.cat(batches).cpu()
