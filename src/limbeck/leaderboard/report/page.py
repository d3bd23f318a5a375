"""The page of a leaderboard: its template, filled and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.runs.report.pages import render_page, save_page


def fill_page(template: Path, content: dict[str, Any], out: Path) -> Path:
    """Write leaderboard.html.

    Args:
        template: the template, which may include those beside this file.
        content: its variables.
        out: folder of the leaderboard.

    Returns:
        The page.
    """
    page = render_page(template.name, content, template.parent, Path(__file__).parent)
    return save_page(out / "leaderboard.html", page)
