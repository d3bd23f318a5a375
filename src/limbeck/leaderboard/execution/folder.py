"""The folder of a leaderboard: free, or with the same comparison of the same model."""

from __future__ import annotations

import hashlib
from dataclasses import Field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from limbeck import __version__
from limbeck.config.yaml import read_yaml, to_yaml
from limbeck.priors.loading import pick_precision
from limbeck.runs.folder_state import foreign_files
from limbeck.system.files import write_text
from limbeck.system.folder_lock import refuse_folder_in_use
from limbeck.system.notices import notify
from limbeck.world.pretrained import WEIGHTS


class MethodComparison(Protocol):
    """Options of a leaderboard of methods, a frozen dataclass.

    Attributes:
        options_file: name of the file of its options in its folder.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    options_file: ClassVar[str]

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods to compare, as they were given."""

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows of the table."""


AnyBoard = TypeVar("AnyBoard", bound=MethodComparison)


def joined_leaderboard(board: AnyBoard, out: Path, digest: str = "") -> AnyBoard:
    """Check that a folder is free or holds the same leaderboard of the same model; write nothing.

    Args:
        board: the leaderboard.
        out: its folder.
        digest: fingerprint of the model. Empty: that of the embedded one.

    Returns:
        The leaderboard with the methods of the folder and those of ``board``.

    Raises:
        ValueError: if it is a file, in use, or holds something else.
    """
    refuse_folder_in_use(out)
    options, model = out / board.options_file, out / "model.txt"
    if not options.exists():
        if names := foreign_files(out):
            raise ValueError(
                f"{out} holds files already ({names[0]}), and nothing is overwritten; choose "
                "another --out"
            )
        return board
    held: AnyBoard = read_yaml(type(board), options)
    before, now = (
        {k: v for k, v in vars(found).items() if k != "methods"} for found in (held, board)
    )
    changed = [name for name, value in now.items() if before[name] != value]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{out} holds a leaderboard with {name} {before[name]}, not {now[name]}: give another "
            "--out"
        )
    if model.read_text(encoding="utf-8").strip() != (digest or model_digest()):
        raise ValueError(
            f"{out} holds a leaderboard of another version of the model: give another --out"
        )
    return replace(board, methods=tuple(dict.fromkeys((*held.rows, *board.rows))))


def open_leaderboard(board: AnyBoard, out: Path, digest: str = "") -> AnyBoard:
    """Make the folder, or add the methods of ``board`` to it.

    Args:
        board: the leaderboard.
        out: its folder.
        digest: fingerprint of the model. Empty: that of the embedded one.

    Returns:
        The leaderboard with the methods of the folder and those of ``board``.

    Raises:
        ValueError: if it is a file, in use, or holds something else.
    """
    board = joined_leaderboard(board, out, digest)
    out.mkdir(parents=True, exist_ok=True)
    _check_computed_by(board, out / "computed-by.txt")
    write_text(out / "model.txt", (digest or model_digest()) + "\n")
    write_text(out / board.options_file, to_yaml(board))
    return board


def _check_computed_by(board: MethodComparison, path: Path) -> None:
    """Write version and dtype of a new leaderboard; give a notice if they are other ones now."""
    # what a leaderboard computes, it computes on CPUs; laws have no precision
    precision = vars(board).get("precision", "float32")
    dtype = str(pick_precision(precision, "cpu")).removeprefix("torch.")
    now = f"limbeck {__version__}, {dtype}"
    if not path.exists():
        if not (path.parent / "model.txt").exists():  # else of a version that is not known
            write_text(path, now + "\n")
    elif (before := path.read_text(encoding="utf-8").strip()) != now:
        notify(
            f"{path.parent} was begun with {before}, and what is computed now is with {now}: rows "
            "of both differ by more than their methods, so finish a table where it was begun, or "
            "give another --out"
        )


def model_digest() -> str:
    """A fingerprint of the embedded model and its evaluator: tables of two models do not mix."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(WEIGHTS.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
