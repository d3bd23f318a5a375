"""Fixtures of the tests of priors."""

import pytest
from tiny_families import WRITERS, write_tiny_pipeline

FAMILIES = list(WRITERS)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Every family's pipeline, written when first asked for."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = write_tiny_pipeline(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder
