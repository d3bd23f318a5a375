"""Comparison of the stages of a preset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.metrics.run_scores import print_worse_stages, worse_stages

NAMES = ("1-field", "2-geometry", "3-texture")
FIELD, GEOMETRY, TEXTURE = (Path("runs/chair") / name for name in NAMES)


def test_a_last_stage_below_the_best_before_it_is_reported() -> None:
    """The numbers of a chair of the preset prolificdreamer."""
    scores = {
        FIELD: {"object": 1.0, "color": 0.75, "all": 0.75},
        GEOMETRY: {"object": 1.0, "color": 0.0, "all": 0.0},
        TEXTURE: {"object": 0.9, "color": 0.7, "all": 0.66},
    }
    (message,) = worse_stages(scores)
    assert message.startswith(
        "3-texture is worse than 1-field by the evaluator: all fell from 75 % to 66 %. "
    )
    assert f"limbeck eval {FIELD} {TEXTURE}" in message


def test_a_stage_in_between_is_compared_by_its_object() -> None:
    scores = {FIELD: {"object": 1.0, "all": 0.5}, GEOMETRY: {"object": 0.25, "all": 0.9}}
    (message,) = worse_stages(scores | {TEXTURE: {"object": 1.0, "all": 0.9}})
    assert message.startswith("2-geometry is worse than 1-field by the evaluator: object fell from")


@pytest.mark.parametrize(
    "scores",
    [
        {FIELD: {"object": 1.0, "all": 0.5}, TEXTURE: {"object": 0.5, "all": 0.5}},
        {FIELD: {"saturation": 1.0}, TEXTURE: {"saturation": 0.5}},
        {FIELD: {"object": 1.0, "all": 1.0}},
        {},
    ],
    ids=["equal", "not judged", "one stage", "none"],
)
def test_nothing_is_said_otherwise(scores) -> None:
    assert worse_stages(scores) == []


def test_the_scores_of_stages_are_read_from_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "1-field", tmp_path / "2-geometry", tmp_path / "3-texture"]
    for folder, value in zip(folders[::2], (1.0, 0.5), strict=True):
        folder.mkdir()
        mean = {"mean": {"object": value, "all": value}}
        (folder / "scores.json").write_text(json.dumps(mean), encoding="utf-8")
    print_worse_stages(folders)
    assert "3-texture is worse than 1-field by the evaluator" in capsys.readouterr().err
