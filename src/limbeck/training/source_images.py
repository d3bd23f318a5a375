"""What the particles of an edit start from."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from limbeck.config.discovery import component_name, is_own
from limbeck.diffusion.condition import Conditions
from limbeck.diffusion.model_options import Model
from limbeck.diffusion.prior import InstructionPrior, Prior
from limbeck.diffusion.tensors import to_device
from limbeck.distillation.inputs import EditSource
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.methods.base import EditMethod
from limbeck.priors.families import follows_instructions
from limbeck.representations.inpainting import Inpainting
from limbeck.training.experiment import Experiment
from limbeck.training.run_prompts import RunPrompts


class RunSource:
    """What the particles of a run were before the first step.

    Args:
        prior: the model.
        prompts: the encoded prompts of the run.
        x0: source x0, one row per particle.
        source_prompts: source prompt of each prompt.

    Attributes:
        x0: source x0, one row per particle.
        conditions: conditions of the source prompts, one row per prompt.
    """

    def __init__(
        self,
        prior: Prior,
        prompts: RunPrompts,
        x0: Float[Tensor, "n ..."],
        source_prompts: tuple[str, ...],
    ):
        self._prior, self._prompts = prior, prompts
        self.x0, self.conditions = x0, prompts.encode_sources(source_prompts)

    def rows(self, particle: Int[Tensor, "b"]) -> EditSource:
        """Return what particles are edits of.

        Args:
            particle: particle of each row.
        """
        conditions = self.conditions[self._prompts.prompt_of(particle)]
        x0 = self.x0[to_device(particle, self.x0.device)]
        return EditSource(x0, self.shown(conditions, particle))

    def shown(self, conditions: Conditions, particle: Int[Tensor, "b"]) -> Conditions:
        """Show an ``InstructionPrior`` the source images; unchanged for other priors.

        Args:
            conditions: conditions of the rows.
            particle: particle of each row.
        """
        if not isinstance(self._prior, InstructionPrior):
            return conditions
        x0 = self.x0[to_device(particle, self.x0.device)]
        return conditions.with_image(self._prior.source_latents(x0), self._prior.image_guidance)


def source_prompts_of(experiment: Experiment, prior: Prior) -> tuple[str, ...]:
    """Return the source prompt of each prompt; empty if the run has no sources.

    Those of an ``InstructionPrior`` are empty texts, no instruction, unless others are given.

    Args:
        experiment: the options of the run.
        prior: its model.
    """
    e = experiment
    if not e.source_prompts and isinstance(prior, InstructionPrior):
        return ("",) * len(e.prompts)
    return e.source_prompts


def check_edit_source(experiment: Experiment, model: Model | Prior | str) -> None:
    """Check that a method that edits has images and source prompts, without loading the model.

    A model that follows instructions needs no source prompt. A 3D representation, one of your own,
    and the vectors of a prior without images have no image files; they are edited as they start.

    Args:
        experiment: the options of the run.
        model: its model.

    Raises:
        ValueError: if there are none.
    """
    method, config = experiment.method, experiment.representation
    if not isinstance(method, EditMethod):
        return
    if not follows_instructions(model):
        method.check_source(experiment.source_prompts)
    is_3d = not isinstance(experiment.camera_sampler, NoCamera)
    has_vectors = not isinstance(model, Model | str) and len(model.shape) != 3
    if config.input_files or config.fresh_samples or is_3d or has_vectors or is_own(type(config)):
        return
    raise ValueError(
        f"method {component_name(type(method))} edits images, and the representation "
        f"{component_name(type(config))} has none: use limbeck edit IMAGE, or add "
        "--representation.images IMAGE"
    )


def check_source_images(experiment: Experiment, prior: Prior) -> None:
    """Check that a model that edits images by instructions has images, in 2D.

    Args:
        experiment: the options of the run.
        prior: its model.

    Raises:
        ValueError: if there are none, or an option has no place beside them.
    """
    e, config = experiment, experiment.representation
    if not isinstance(prior, InstructionPrior):
        return
    if not isinstance(e.camera_sampler, NoCamera):
        raise ValueError(
            "this model edits images by instructions, but the representation "
            f"{component_name(type(config))} is 3D: use a 2D one, or limbeck edit"
        )
    if isinstance(config, Inpainting):
        config = config.inner
    if not config.images and config.init_from is None:
        raise ValueError(
            "this model edits images by instructions: give them with --representation.images, or "
            "use limbeck edit"
        )
    if e.perp_neg:
        raise ValueError(
            f"perp_neg {e.perp_neg} has no place beside the guidance by an image: leave it out"
        )
