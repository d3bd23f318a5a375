"""start, watch, export and compare runs on a page in the browser"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudioOptions:
    """What the Studio shows, and where its page is served.

    Attributes:
        folder: folder of the runs; by default runs.
        port: port of the page on this machine; the next free one if it is taken.
        browser: open the page in the browser.
        workers: runs at the same time; others wait in line. The page can change it.
    """

    folder: tuple[Path, ...] = (Path("runs"),)
    port: int = 8090
    browser: bool = True
    workers: int = 1

    def __post_init__(self) -> None:
        if len(self.folder) != 1:
            raise ValueError(f"give one folder of runs, not {len(self.folder)}: limbeck ui runs")
        if self.folder[0].exists() and not self.folder[0].is_dir():
            raise ValueError(f"{self.folder[0]} is a file: give the folder that contains the runs")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be 1 to 65535, not {self.port}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")


def main(argv: Sequence[str]) -> None:
    """Run ``limbeck ui``: serve the page until Ctrl-C."""
    from limbeck.config.command_line import parse

    about = "Start, watch, export and compare the runs in FOLDER on a page in the browser."
    (options,) = parse([(StudioOptions, None)], argv, "limbeck ui", about, "folder")

    from limbeck.system.extras import require_package

    require_package("nicegui")

    from limbeck.studio.server import HOST, free_port, serve_studio

    port = free_port(options.port)
    if port != options.port:
        print(f"limbeck: port {options.port} is taken", file=sys.stderr)
    message = f"limbeck: Studio at http://{HOST}:{port}; stop with Ctrl-C"
    print(message, file=sys.stderr, flush=True)
    serve_studio(options.folder[0], port, options.browser, options.workers)
