"""change what pictures show, from one text to another"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """``limbeck edit``: pictures that shall show something else."""
    from limbeck.cli.run_folder import Place, going_on
    from limbeck.config.command_line import parse, said
    from limbeck.config.discovery import find
    from limbeck.methods.base import EditMethod
    from limbeck.priors.loading import load
    from limbeck.runs.editing import How, Pictures, default_folder, edit_to_folder, suited

    about = "Change what PICTUREs show, from --source-prompt to --target-prompt. Choosing a --method takes the settings that suit it."
    default = suited(find(EditMethod, said(argv, "method") or "dds"))
    what, how, place = parse(
        [(Pictures, None), (How, default), (Place, None)], argv, "limbeck edit", about, "pictures"
    )
    what.check()
    command, prior = (
        shlex.join(["limbeck", "edit", *argv]),
        load(how.model, place.device, how.precision, runtime=how.running),
    )
    prior.condition((*what.target, *what.source))
    with going_on(command):
        print(
            edit_to_folder(
                what, how, prior, place.out or default_folder(what, how), command=command
            )
        )
