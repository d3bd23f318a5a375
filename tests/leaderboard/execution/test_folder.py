"""The folder of a leaderboard."""

from dataclasses import replace

import pytest

from limbeck.leaderboard.execution import folder
from limbeck.leaderboard.images.protocol import Leaderboard
from limbeck.system.notices import collect_notices, display_notices

BOARD = Leaderboard(("sds", "vsd", "sampling"), num_prompts=3, seeds=2, tuning_prompts=2, passes=8)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file: name another folder with --out"):
        folder.open_leaderboard(BOARD, tmp_path / "file")
    (tmp_path / "file").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files already \(notes.txt\)"):
        folder.open_leaderboard(BOARD, tmp_path)


def test_a_folder_keeps_its_options(tmp_path, monkeypatch):
    out = tmp_path / "board"
    assert folder.open_leaderboard(BOARD, out) == BOARD
    more = folder.open_leaderboard(replace(BOARD, methods=("ism", "sds")), out)
    assert more.rows == (*BOARD.rows, "ism")
    assert folder.open_leaderboard(BOARD, out) == more  # no row is lost
    with pytest.raises(ValueError, match="a leaderboard with passes 8, not 9"):
        folder.open_leaderboard(replace(BOARD, passes=9), out)
    monkeypatch.setattr(folder, "model_digest", lambda: "other")
    with pytest.raises(ValueError, match="another version of the model"):
        folder.open_leaderboard(BOARD, out)


def test_another_dtype_or_version_draws_a_notice(tmp_path):
    def notices_of(board):
        with display_notices(lambda text: None), collect_notices() as notices:
            folder.open_leaderboard(board, tmp_path / "board")
        return notices

    board = replace(BOARD, precision="float32")
    assert notices_of(board) == notices_of(board) == []
    path = tmp_path / "board" / "computed-by.txt"
    now = path.read_text().strip()
    assert now.endswith(", float32")
    path.write_text("limbeck 0.0.1, bfloat16\n")
    (notice,) = notices_of(board)
    assert (
        f"was begun with limbeck 0.0.1, bfloat16, and what is computed now is with {now}" in notice
    )
    assert path.read_text() == "limbeck 0.0.1, bfloat16\n"
