"""list known models, their memory and settings to begin with"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """``limbeck models``: what is known of published models."""
    from limbeck.config.command_line import parse
    from limbeck.priors.catalog import Models, show

    (wanted,) = parse(
        [(Models, None)],
        argv,
        "limbeck models",
        "Known models: limbeck models [WORD ...].",
        "names",
    )
    print(show(wanted.names))
