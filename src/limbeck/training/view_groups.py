"""Groups of views: rows of a particle that a model sees together."""

from __future__ import annotations

from limbeck.config.discovery import component_name
from limbeck.diffusion.prior import MultiViewPrior, Prior
from limbeck.distillation.timesteps.base import RandomTimesteps
from limbeck.graphics.cameras.samplers import NoCamera, ShellCameras
from limbeck.training.experiment import Experiment


def group_size(experiment: Experiment, prior: Prior) -> int:
    """Return the number of rows that share a network call as one group of views.

    Args:
        experiment: the options of the run.
        prior: its model.
    """
    has_cameras = not isinstance(experiment.camera_sampler, NoCamera)
    return prior.group_size if isinstance(prior, MultiViewPrior) and has_cameras else 1


def check_view_groups(experiment: Experiment, prior: Prior) -> None:
    """Check that a run draws the groups of views that its model sees together.

    Args:
        experiment: the options of the run.
        prior: its model.

    Raises:
        ValueError: if the cameras have groups of another size than the model, the views of a group
            differ in time, or view words were chosen that the model is not given.
    """
    e, size, cameras = experiment, group_size(experiment, prior), experiment.camera_sampler
    if not isinstance(prior, MultiViewPrior) or isinstance(cameras, NoCamera):
        return
    if cameras.group_size != size and size > 1:
        found = component_name(type(cameras))
        if cameras.group_size > 1:
            found = f"groups of {cameras.group_size} views"
        raise ValueError(
            f"this model sees {size} views of an object at once, but cameras are {found}: use "
            f"--cameras around --cameras.views {size}"
        )
    times = e.timesteps
    splits = isinstance(times, RandomTimesteps) and times.per_row and not times.per_group
    if size > 1 and splits:
        raise ValueError(
            f"the {size} views that this model sees at once have one time: leave out "
            "--timesteps.no-per-group"
        )
    if isinstance(cameras, ShellCameras):
        default = ShellCameras.__dataclass_fields__["view_prompts"].default
        if any(cameras.view_prompts) and cameras.view_prompts != default:
            raise ValueError(
                "cameras.view_prompts has no effect, because this model is conditioned on the "
                "cameras and gets the prompt without view words: leave it out"
            )
    if cameras.has_perp_neg or cameras.interpolates_prompts:
        option = "perp-neg" if cameras.has_perp_neg else "blend-prompts"
        raise ValueError(
            f"cameras.{option} needs view words in the prompts, which this model does not get: it "
            "is conditioned on the cameras"
        )
