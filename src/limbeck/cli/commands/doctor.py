"""say what this installation has and lacks"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """``limbeck doctor``: what is here."""
    if argv and argv[0] in ("-h", "--help"):
        print(
            "usage: limbeck doctor\n\nSay what this installation has and lacks. It takes no options."
        )
        return
    if argv:
        raise ValueError(f"doctor takes no options, not {argv[0]!r}")

    from limbeck.cli.diagnostics import examine

    examine()
