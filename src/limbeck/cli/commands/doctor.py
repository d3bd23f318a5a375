"""check the installation and list optional packages"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck doctor``: a table of the machine, the packages and the embedded model."""
    from limbeck.config.command_line import parse

    parse([], argv, "limbeck doctor", "Check the installation and list optional packages.")

    from limbeck.cli.diagnostics import report_diagnostics

    report_diagnostics()
