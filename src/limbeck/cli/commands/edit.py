"""edit images by a source and a target prompt, or by an instruction"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.cli.run_folder import OutputOptions


@dataclass(frozen=True)
class EditOutputOptions(OutputOptions):
    """Where edits are computed and written.

    Attributes:
        out: folder to write; by default it is named after what it contains.
        device: auto, cpu, cuda, cuda:N or mps.
        dry_run: take three steps in memory and print time and memory of the edit; write nothing.
    """

    dry_run: bool = False


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck edit``: edit images into a folder and print its report."""
    from limbeck.cli.run_folder import check_new_folder, exit_if_incomplete, resume_hint
    from limbeck.config.command_line import parse, value_of
    from limbeck.config.discovery import find
    from limbeck.config.yaml import naming_options
    from limbeck.methods.base import EditMethod
    from limbeck.priors.families import follows_instructions
    from limbeck.priors.loading import load, notify_unknown_words
    from limbeck.runs import editing
    from limbeck.runs.closing_summary import edit_closing_lines
    from limbeck.runs.edit_inputs import EditInputs
    from limbeck.runs.edit_options import EditOptions, default_method, default_options
    from limbeck.runs.folder_state import foreign_files

    about = (
        "Edit each IMAGE from --source-prompt to --target-prompt. "
        "The defaults are those that suit --method and --model."
    )
    model = value_of(argv, "--model") or value_of(argv, "--model.name") or "world"
    method = find(EditMethod, value_of(argv, "--method") or default_method(model))
    inputs, options, output = parse(
        [
            (EditInputs, None),
            (EditOptions, default_options(method, model)),
            (EditOutputOptions, None),
        ],
        argv,
        "limbeck edit",
        about,
        "images",
    )
    inputs.check(options.method, follows_instructions(options.model))
    with naming_options(inputs, options):
        editing.check_edits(inputs, options)
    folder = output.out or editing.default_folder(inputs, options)
    is_begun = (folder / "run.yaml").is_file() or any(folder.glob("[0-9]*x[0-9]*/"))
    if not is_begun and (foreign_files(folder) or not folder.is_dir()):
        check_new_folder(folder)  # before the model is loaded
    notify_unknown_words(options.model, editing.edit_prompts(inputs, options))
    prior = load(options.model, output.device, options.precision, options.runtime)
    prior.condition((*inputs.target_prompt, *inputs.source_prompt))  # refuses unknown words early
    if output.dry_run:
        plans = editing.rehearse_edits(inputs, options, prior, folder)
        for path, plan in plans.items():
            print(f"{path.name}: {plan}" if len(plans) > 1 else plan)
        return
    command = shlex.join(["limbeck", "edit", *argv])
    with resume_hint(command):
        report = editing.edit_to_folder(inputs, options, prior, folder, command=command)
    print(report, flush=True)
    runs = editing.edit_folders(folder, editing.edit_experiments(inputs, options, prior))
    print("\n".join(edit_closing_lines(folder, runs, argv)), file=sys.stderr, flush=True)
    exit_if_incomplete(folder)
