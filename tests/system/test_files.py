"""Names of files; files that others see old or new as a whole, whoever else writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import limbeck
from limbeck.system.files import one_line, replacing, slug


def test_two_writers_of_one_file_do_not_share_a_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as two:
            two.write_text("two")
        assert path.read_text() == "two"
        one.write_text("one, whole")
    assert path.read_text() == "one, whole"
    assert os.listdir(tmp_path) == ["x.json"]


def test_an_error_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(OSError, match="disk"), replacing(path) as part:
        assert part.name.endswith(".part") and part.parent == tmp_path
        part.write_text("ne")
        raise OSError("the disk is full")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.json"]


def test_a_file_may_be_read_by_those_who_may_read_others(tmp_path: Path) -> None:
    """tempfile makes files that only their owner may read."""
    (tmp_path / "other").touch()
    with replacing(tmp_path / "x") as part:
        part.touch()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_one_place_replaces_files() -> None:
    root = Path(limbeck.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    renaming = [path.relative_to(root) for path, text in texts.items() if "os.replace(" in text]
    temporary = [path.relative_to(root) for path, text in texts.items() if '.part"' in text]
    assert renaming == [Path("system/files.py")]
    assert set(temporary) <= {
        Path(name) for name in ("system/files.py", "runs/recorder.py", "runs/folder_state.py")
    }


@given(st.text())
def test_slug_is_a_safe_folder_name(text: str) -> None:
    name = slug(text)
    assert (
        0 < len(name) <= 40
        and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        and not name.startswith("-")
    )


def test_slug_keeps_the_words() -> None:
    assert slug("A striped, red Mug!") == "a-striped-red-mug"
    assert slug("Café") == "cafe"


def test_a_message_that_is_cut_ends_with_an_ellipsis():
    assert one_line(ValueError("too\n long"), 8) == "too long"
    assert one_line(ValueError("far too long"), 8) == "far t..."
