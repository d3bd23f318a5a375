"""draw timesteps or weights by name"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """``limbeck plot``: timesteps over a run, or weights over time."""
    from limbeck.config.command_line import parse
    from limbeck.runs.report.schedule_plots import Plotting, draw

    about = "Draw timesteps over a run, or weights over time: limbeck plot timesteps|weights [NAME ...]."
    (wanted,) = parse([(Plotting, None)], argv, "limbeck plot", about, "names")
    print(draw(wanted))
