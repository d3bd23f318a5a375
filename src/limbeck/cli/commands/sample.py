"""sample a model, or the critic or one-step generator of a run"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.diffusion.sampling import Sampling


@dataclass(frozen=True)
class GeneratorExport:
    """Where a generator is written besides its samples.

    Attributes:
        export: folder to create with the generator as a StableDiffusionPipeline of diffusers, which
            draws an image in one step without guidance.
    """

    export: Path | None = None


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck sample``: write samples into a folder and print its report."""
    from limbeck.cli.run_folder import OutputOptions
    from limbeck.config.command_line import parse
    from limbeck.diffusion.sampling import Sampling

    about = (
        "Sample a model for each PROMPT with a diffusion sampler, as a reference for the results "
        "of distillation."
    )
    sections = [(Sampling, None), (GeneratorExport, None), (OutputOptions, None)]
    sampling, generator, output = parse(sections, argv, "limbeck sample", about, "prompts")
    sampling, folder = _check_files(sampling, output.out)
    if generator.export is not None:
        _check_export(sampling, generator.export)

    from limbeck.priors.loading import load, notify_unknown_words
    from limbeck.runs.closing_summary import sample_closing_lines
    from limbeck.runs.generator_samples import (
        check_exportable,
        check_generator,
        export_generator,
        require_pipeline,
    )
    from limbeck.runs.sample_recorder import (
        check_count_fits,
        refuse_other_model,
        refuse_other_samples,
        sample_to_folder,
    )

    if sampling.generator is not None:
        check_generator(sampling.generator)
        if generator.export is not None:
            check_exportable(sampling.generator)
    refuse_other_model(sampling)
    refuse_other_samples(folder, sampling)
    check_count_fits(sampling)

    notify_unknown_words(sampling.model, (*sampling.prompts, sampling.negative_prompt))
    prior = load(sampling.model, output.device, sampling.precision, sampling.runtime)
    if generator.export is not None:
        require_pipeline(prior)
    print(sample_to_folder(sampling, prior, folder), flush=True)
    if sampling.generator is not None and generator.export is not None:
        export_generator(sampling.generator, prior, generator.export)
        print(generator.export, flush=True)
    print("\n".join(sample_closing_lines(folder, sampling)), file=sys.stderr)


def _check_files(sampling: Sampling, out: Path | None) -> tuple[Sampling, Path]:
    """Find the runs and the image of the options, and the folder to write.

    Args:
        sampling: options as given.
        out: folder as given.

    Returns:
        The options with the folders of the runs, and the folder to write.
    """
    from limbeck.cli.run_folder import check_new_folder
    from limbeck.config.comparison import fingerprint
    from limbeck.runs.find_runs import find_folder
    from limbeck.runs.folder_state import foreign_files
    from limbeck.system.files import slug
    from limbeck.system.folder_lock import refuse_folder_in_use
    from limbeck.system.image_files import image_file_size

    if sampling.critic is not None:
        sampling = replace(sampling, critic=find_folder(sampling.critic))
    if sampling.generator is not None:
        sampling = replace(sampling, generator=find_folder(sampling.generator))
    how = sampling.sampler if sampling.generator is None else "generator"
    name = f"{slug(sampling.prompts[0])}-{how}-{fingerprint(sampling)}"
    folder = out or Path("samples") / name
    refuse_folder_in_use(folder)
    is_left = folder.is_dir() and not foreign_files(folder)  # by a process that was killed
    # samples that were cut off are checked later
    if not is_left and not (folder / "sample.yaml").exists():
        check_new_folder(folder)
    if sampling.critic is not None and not sampling.critic.is_dir():
        raise ValueError(f"--critic {sampling.critic} is not a run folder")
    if sampling.image is not None:
        image_file_size(sampling.image)  # refuses files before the model is loaded
    return sampling, folder


def _check_export(sampling: Sampling, folder: Path) -> None:
    """Raise ValueError unless there is a generator to export, and the folder is new."""
    if sampling.generator is None:
        raise ValueError(f"--export {folder} writes a generator: give its run with --generator")
    if folder.exists():
        raise ValueError(f"{folder} exists and is not overwritten; choose another with --export")
