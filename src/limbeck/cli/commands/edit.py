"""edit images from a source prompt to a target prompt"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck edit``: edit images into a folder and print its report."""
    from limbeck.cli.run_folder import OutputOptions, resume_hint
    from limbeck.config.command_line import parse, value_of
    from limbeck.config.discovery import find
    from limbeck.methods.base import EditMethod
    from limbeck.priors.loading import load
    from limbeck.runs import editing

    about = (
        "Edit each IMAGE from --source-prompt to --target-prompt. "
        "The defaults are those that suit --method."
    )
    default = editing.default_options(find(EditMethod, value_of(argv, "--method") or "dds"))
    inputs, options, output = parse(
        [(editing.EditInputs, None), (editing.EditOptions, default), (OutputOptions, None)],
        argv,
        "limbeck edit",
        about,
        "images",
    )
    inputs.check()
    prior = load(options.model, output.device, options.precision, options.runtime)
    prior.condition((*inputs.target_prompt, *inputs.source_prompt))  # refuses unknown words early
    folder = output.out or editing.default_folder(inputs, options)
    command = shlex.join(["limbeck", "edit", *argv])
    with resume_hint(command):
        print(editing.edit_to_folder(inputs, options, prior, folder, command=command))
