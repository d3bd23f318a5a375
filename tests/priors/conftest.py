"""Fixtures of the tests of priors."""

import shutil

import huggingface_hub
import pytest
from tiny_families import WRITERS, write_tiny_pipeline


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Returns the folder of a family's pipeline, which is written on first use."""
    written = {}

    def folder(family):
        if family not in written:
            written[family] = write_tiny_pipeline(family, tmp_path_factory.mktemp(family))
        return written[family]

    return folder


@pytest.fixture(params=WRITERS)
def family(request):
    return request.param


class HubCache:
    """A cache of the hub in ``path``."""

    def __init__(self, path):
        self.path = path

    def add(self, repo_id, folder, revision="main"):
        """Add a copy of a folder as a download does; return its place."""
        repo = self.path / f"models--{repo_id.replace('/', '--')}"
        commit = f"{len(list(repo.glob('snapshots/*'))):040x}"
        shutil.copytree(folder, repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / revision).write_text(commit)
        return repo / "snapshots" / commit


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return HubCache(tmp_path / "hub")
