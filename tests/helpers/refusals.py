"""Errors of the command line."""

from __future__ import annotations

import pytest

from limbeck.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The error line that ``limbeck`` prints for input it refuses, with exit code 2."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("limbeck: error: "), err
    return lines[0].removeprefix("limbeck: error: ")
