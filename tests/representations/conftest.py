"""Image files to initialize representations from."""

from __future__ import annotations

import pytest
from small_2d import write_test_image


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Four images of 24 x 24 pixels and one that is 48 wide."""
    folder = tmp_path_factory.mktemp("images")
    widths = (24, 24, 24, 24, 48)
    return [
        write_test_image(folder / f"{i}.png", 24, width, 0.2 * i) for i, width in enumerate(widths)
    ]
