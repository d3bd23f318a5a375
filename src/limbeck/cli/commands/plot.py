"""plot timesteps or weights by name"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck plot``: write the plot and print its path."""
    from limbeck.config.command_line import parse
    from limbeck.runs.report.schedule_plots import SchedulePlotOptions, write_plot

    about = (
        "Plot timesteps over a run, or weights over time: "
        "limbeck plot timesteps|weights [COMPONENT ...]."
    )
    (options,) = parse([(SchedulePlotOptions, None)], argv, "limbeck plot", about, "names")
    print(write_plot(options))
