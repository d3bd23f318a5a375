"""What a run refuses before its model is loaded: files that are missing, options without effect."""

from __future__ import annotations

from pathlib import Path

from limbeck.diffusion.model_options import Model
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.base import CriticMethod
from limbeck.priors.loading import check_model_files
from limbeck.priors.lora_files import find_lora_file
from limbeck.runs.final_products import check_films
from limbeck.runs.run_command import RunOptions
from limbeck.system.image_files import check_image_exists
from limbeck.training.experiment import Experiment
from limbeck.training.source_images import check_edit_source
from limbeck.training.warm_start import find_checkpoint


def check_files_exist(experiment: Experiment, folder: Path) -> None:
    """Check that the files that the options name exist; none is read.

    Args:
        experiment: the options of the run.
        folder: its run folder, whose checkpoint takes the place of the run that it starts from.

    Raises:
        ValueError: if one is missing, as the run itself would say after its model is loaded.
    """
    representation, method = experiment.representation, experiment.method
    for image in (*representation.image_files, *experiment.reference.files):
        check_image_exists(image)
    is_new = not (folder / "checkpoint.safetensors").exists()
    if representation.init_from is not None and is_new:
        find_checkpoint(representation.init_from)
    if isinstance(experiment.model, Model):
        check_model_files(experiment.model)
    critic = method.critic if isinstance(method, CriticMethod) else None
    if isinstance(critic, LoRACritic) and critic.init_from is not None:
        find_lora_file(critic.init_from)


def check_before_loading(experiment: Experiment, options: RunOptions) -> None:
    """Check what can be checked without the model: files are read, and packages looked for.

    Args:
        experiment: the options of the run.
        options: how it is recorded.

    Raises:
        ValueError: if a file or an option cannot be used.
    """
    if options.logger is not None and not options.dry_run:
        options.logger.check_package()
    check_films(experiment, options.films)
    check_edit_source(experiment, experiment.model)
    experiment.representation.check_files()
    experiment.reference.read_images()
    experiment.reference.check_effect_on(experiment.representation)
