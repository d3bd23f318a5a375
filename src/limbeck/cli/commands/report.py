"""write an HTML report of one or more run folders"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows and where it is written.

    Attributes:
        folders: run folders to show side by side; of a preset's the last stage is shown.
        out: HTML file to write; by default report.html in the folder, or comparison.html in the
            common parent of several.
    """

    folders: tuple[Path, ...] = ()
    out: Path | None = None


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck report``: write the report and print its path."""
    from limbeck.cli.run_folder import check_distinct, without_own_files
    from limbeck.config.command_line import parse
    from limbeck.runs.find_runs import find_folder

    about = "Write one HTML report of run FOLDERs."
    (options,) = parse([(ReportOptions, None)], argv, "limbeck report", about, "folders")
    if not options.folders:
        raise ValueError("a run folder is missing: limbeck report runs/NAME [runs/OTHER ...]")
    folders = [find_folder(folder) for folder in without_own_files(options.folders)]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"no run folder {folder}")
        if (folder / "sweep.yaml").is_file():
            raise ValueError(
                f"{folder} holds a sweep: its page is {folder / 'report.html'}; for a report of "
                "runs name their folders in it"
            )

    from limbeck.runs.reopen import last_stage
    from limbeck.runs.report.pages import write_report

    folders = [last_stage(folder) for folder in folders]
    check_distinct(folders)
    print(write_report(folders, options.out))
