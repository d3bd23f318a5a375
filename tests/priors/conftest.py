"""Fixtures of the tests of priors."""

import pytest
from tiny_families import WRITERS, written

FAMILIES = list(WRITERS)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Every family's pipeline, written when first asked for."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = written(family, tmp_path_factory.mktemp(family))
        return made[family]

    return folder
