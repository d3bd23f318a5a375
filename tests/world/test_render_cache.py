"""Cached renders: those of the settings that were asked for, whenever an earlier call stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limbeck.world import render_cache
from limbeck.world.render_cache import load_images, load_scenes, prepare_renders


def stop_halfway(self: Path, text: str, **options: object) -> None:
    """Write half of a text and stop, as a kill does."""
    self.write_bytes(text.encode()[: len(text) // 2])
    raise KeyboardInterrupt


def test_the_marker_is_written_wholly_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "write_text", stop_halfway)
        prepare_renders(tmp_path, 3, seed=0)
    assert not (tmp_path / "renders.json").exists()
    prepare_renders(tmp_path, 3, seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images.npy",
        "renders.json",
        "scenes.npz",
    ]


def test_renders_of_the_same_settings_are_not_made_again(tmp_path: Path) -> None:
    prepare_renders(tmp_path, 3, seed=0)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    prepare_renders(tmp_path, 3, seed=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_renders_of_other_settings_do_not_pass_for_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_renders(tmp_path, 4, seed=0, chunk=2)
    before, render_scenes = np.array(load_images(tmp_path)), render_cache.render_scenes
    chunks = []

    def stop_at_second(scenes):
        chunks.append(scenes)
        if len(chunks) == 2:
            raise KeyboardInterrupt
        return render_scenes(scenes)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(render_cache, "render_scenes", stop_at_second)
        prepare_renders(tmp_path, 4, seed=1, chunk=2)
    prepare_renders(tmp_path, 4, seed=0, chunk=2)
    assert np.array_equal(load_images(tmp_path), before)
    assert len(load_scenes(tmp_path).labels()) == 4
