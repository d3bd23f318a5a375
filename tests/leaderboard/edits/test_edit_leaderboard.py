"""The leaderboard of edits: pairs with known results, equal budgets, verdicts, the command."""

import csv
import io
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from limbeck.cli.main import main
from limbeck.config.discovery import choices
from limbeck.leaderboard.edits import conduct as edit_conduct
from limbeck.leaderboard.edits import pairs as edit_pairs
from limbeck.leaderboard.edits.cells import EditCell, compute_edits
from limbeck.leaderboard.edits.conduct import EditRow, make_edit_cells, save_pairs
from limbeck.leaderboard.edits.judgment import edit_objective, judge_edits
from limbeck.leaderboard.edits.pairs import CHANGED, EditPairs, draw_pairs
from limbeck.leaderboard.edits.protocol import EditLeaderboard, edit_candidates
from limbeck.leaderboard.edits.table import edit_rows_to_csv, edit_rows_to_markdown, judge_edit_rows
from limbeck.leaderboard.execution.image_results import CellResult
from limbeck.methods.base import EditMethod
from limbeck.priors.loading import load
from limbeck.world.pretrained import load_evaluator
from limbeck.world.scene import is_held_out

FLOWS = ("flow-edit", "flow-align")
PASSES = 64  #: irfds needs 60 for its samples


@pytest.fixture(scope="module")
def world():
    return load("world", "cpu", "float32")


@pytest.fixture(scope="module")
def evaluator():
    return load_evaluator()


@pytest.fixture(scope="module", autouse=True)
def few_candidates():
    """Fewer scenes are rendered to choose from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit_pairs, "_BLOCK", 24)
        yield


@pytest.fixture(scope="module")
def pairs(evaluator):
    return draw_pairs(8, 0, evaluator)


def test_pairs_differ_in_one_attribute_and_outside_the_mask_in_nothing(pairs):
    before, after = pairs.before.labels(), pairs.after.labels()
    assert ((before != after).sum(1) == 1).all() and pairs.changed == CHANGED * 2
    for name, own, other in zip(pairs.changed, before, after, strict=True):
        column = ("object", "color", "pattern", "background").index(name)
        assert own[column] != other[column]
    scenes = pairs.before
    assert is_held_out(scenes.object, scenes.color, scenes.pattern).all()
    outside = ~pairs.masks().expand(-1, 3, -1, -1)
    source, target = pairs.source_images(), pairs.target_images()
    assert torch.equal(source[outside], target[outside])
    assert outside.float().mean((1, 2, 3)).min() > 0.02
    assert all(a != b for a, b in zip(pairs.source_prompts, pairs.target_prompts, strict=True))
    assert not any("view" in text for text in pairs.target_prompts)


def test_more_pairs_begin_with_the_same_and_another_seed_has_others(pairs, evaluator):
    few, other = draw_pairs(4, 0, evaluator), draw_pairs(4, 1, evaluator)
    assert few.target_prompts == pairs.target_prompts[:4] != other.target_prompts
    assert np.array_equal(few.before.azimuth, pairs.before.azimuth[:4])


def test_every_row_has_equally_many_candidates():
    board = EditLeaderboard()
    counts = {name: len(set(edit_candidates(board, name))) for name in board.rows}
    assert set(counts) == set(choices(EditMethod)) | {"pds-consistent", "bridge"}
    assert set(counts.values()) == {6}
    assert all(0 < s.strength < 1 for s in edit_candidates(board, "sdedit"))
    starts = {name: {s.strength for s in edit_candidates(board, name)} for name in FLOWS}
    assert starts == {"flow-edit": {0.68, 0.935}, "flow-align": {0.8, 1.0}}
    untuned = replace(board, tuning_pairs=0)
    assert {len(edit_candidates(untuned, name)) for name in board.rows} == {1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("sds",)}, "sds"),
        ({"lr_factors": ()}, "lr_factors must be positive numbers, at least one"),
        ({"guidance_candidates": (0.0,)}, "guidance_candidates must be positive"),
        ({"seed": 2**32 - 1}, "seed 4294967295 is too large for 2 edits of each pair"),
    ],
)
def test_a_board_that_cannot_be_computed_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EditLeaderboard(**changes)


@pytest.mark.parametrize("name", ["dds", "cds", "sdedit", "bridge", "irfds", *FLOWS, "ids"])
def test_every_row_has_the_passes_of_the_board_and_changes_the_image(name, pairs, world, tmp_path):
    board = EditLeaderboard((name,), 1, 1, 0, PASSES)
    save_pairs(pairs[:1], tmp_path / "pairs")
    (setting,) = edit_candidates(board, name)
    (cell,) = make_edit_cells(board, name, setting, pairs[:1])
    result = compute_edits(cell, world, tmp_path)
    per_step = {"cds": 7, "ids": 22}.get(name, 4)
    assert abs(result.passes - PASSES) <= per_step / 2
    assert result.images.shape == (1, 3, 64, 64) and result.diverged == ()
    source = (pairs[:1].source_images() * 255).round().to(torch.uint8)
    assert (result.images.float() - source.float()).abs().mean() > 1


def test_too_few_passes_are_refused(pairs, world, tmp_path):
    board = EditLeaderboard(("dds",), 1, 1, 0, 3)
    save_pairs(pairs[:1], tmp_path / "pairs")
    (cell,) = make_edit_cells(board, "dds", edit_candidates(board, "dds")[0], pairs[:1])
    with pytest.raises(ValueError, match=r"a step of dds takes 4 network passes.*raise --passes"):
        compute_edits(cell, world, tmp_path)


def test_source_and_true_images_are_the_ends_of_every_metric(pairs, evaluator):
    source, target = pairs.source_images(), pairs.target_images()
    untouched, true = (judge_edits(pairs, images, evaluator) for images in (source, target))
    assert (untouched["reached"].value, untouched["kept"].value, untouched["both"].value) == (
        0,
        1,
        0,
    )
    assert true["both"].value == 1 and true["distance"].value == 0
    assert {true[name].value for name in CHANGED} == {1}
    expected = (source - target).square().mean((1, 2, 3)).sqrt()
    assert untouched["distance"].value == pytest.approx(expected.mean().item(), rel=1e-5)
    for own in (untouched, true):
        assert own["ssim_outside"].value == pytest.approx(1)
        assert own["psnr_outside"].value == pytest.approx(58.92, abs=0.01)
    noisy = (target + 0.02 * torch.randn(target.shape)).clamp(0, 1)
    assert 30 < judge_edits(pairs, noisy, evaluator)["psnr_outside"].value < 40
    objectives = [edit_objective(pairs, images, evaluator) for images in (source, noisy, target)]
    assert objectives[0] < 0.1 and min(objectives[1:]) > 0.9


def write_row(name: str, images: torch.Tensor, board: EditLeaderboard, pairs: EditPairs, folder):
    """A row whose cells hold given images, the same for every seed."""
    setting = edit_candidates(board, name)[0]
    cells = make_edit_cells(board, name, setting, pairs)
    pixels = (images * 255).round().to(torch.uint8)
    for cell in cells:
        own = pixels[cell.first : cell.first + len(cell.targets)]
        result = CellResult(own, 40, 160.0, 0.5, ())
        result.save(folder / cell.path, cell)
    return EditRow(name, setting, cells, board.seeds)


def test_differences_to_dds_are_paired(pairs, world, evaluator, tmp_path):
    board = EditLeaderboard(("dds", "pds"), 8, 2, 0)
    source, target = pairs.source_images(), pairs.target_images()
    mixed = torch.cat([target[:6], source[6:]])
    rows = [
        write_row("dds", mixed, board, pairs, tmp_path),
        write_row("pds", target, board, pairs, tmp_path),
    ]
    judged = judge_edit_rows(pairs, rows, tmp_path, world, evaluator)
    by_name = {row.name: row for row in judged}
    assert list(by_name) == ["no edit", "autoencoder", "dds", "pds"]
    assert not by_name["dds"].differences and not by_name["no edit"].differences
    difference = by_name["pds"].differences["both"]
    assert difference.value == pytest.approx(0.25) and len(difference.by_unit) == 8
    assert by_name["autoencoder"].values["psnr_outside"].value < 50
    table = edit_rows_to_markdown(board, judged)
    first = next(line for line in table.splitlines() if line.startswith("| pds |"))
    assert "| 100 % [" in first and "| 25 points [" in first
    assert "8 pairs, 2 edits of each, 160 network passes per edit:" in table
    assert "finds a difference to DDS in four of five cases if it is at least" in table
    lines = list(csv.DictReader(io.StringIO(edit_rows_to_csv(judged))))
    own = {(row["row"], row["metric"]): float(row["value"]) for row in lines}
    assert own["pds", "both_minus_dds"] == 0.25 and own["dds", "kept"] == 1


def test_edits_of_a_pair_are_put_together(pairs, evaluator, tmp_path):
    board = EditLeaderboard(("dds",), 8, 2, 0)
    setting = edit_candidates(board, "dds")[0]
    cells = make_edit_cells(board, "dds", setting, pairs)
    for cell, images in zip(cells, (pairs.source_images(), pairs.target_images()), strict=True):
        pixels = (images * 255).round().to(torch.uint8)
        result = CellResult(pixels, 40, 160.0, 0.5, ())
        result.save(tmp_path / cell.path, cell)
    _, images = EditRow("dds", setting, cells, 2).load(tmp_path)
    values = judge_edits(pairs, images, evaluator)
    assert values["both"].by_unit == (0.5,) * 8


@contextmanager
def _inline_pool(workers):
    """A pool that computes at once, in this process."""

    class Inline:
        def submit(self, function, *args):
            future: Future = Future()
            future.set_result(function(*args))
            return future

    yield Inline()


def test_the_command_writes_a_table_and_computes_nothing_twice(
    monkeypatch, tmp_path, capsys, evaluator
):
    computed: list[EditCell] = []

    def compute(cell, prior, folder):
        computed.append(cell)
        assert all(path.is_file() for path in cell.source_files(folder))
        return CellResult(
            torch.zeros(len(cell.targets), 3, 64, 64, dtype=torch.uint8), 40, 8, 1, ()
        )

    monkeypatch.setattr(edit_conduct, "worker_pool", _inline_pool)
    monkeypatch.setattr(edit_conduct, "compute_edits", compute)
    out = tmp_path / "board"
    argv = ["bench", "--edits", "--methods", "dds", "pds", "--num-pairs", "4", "--seeds", "2"]
    argv += ["--tuning-pairs", "4", "--out", str(out)]
    assert main(argv) == 0
    assert len(computed) == 2 * 6 + 2 * 2
    assert {cell.seed for cell in computed} == {0, 1}
    text = capsys.readouterr().out
    assert "| dds |" in text and "| no edit |" in text and (out / "leaderboard.png").is_file()
    assert len(list((out / "pairs").glob("*-mask.png"))) == 4
    assert main(argv) == 0 and len(computed) == 16
    assert main([*argv[:4], *argv[5:]]) == 0 and len(computed) == 16  # rows may differ
    assert main([*argv, "--passes", "8"]) == 2
    assert "holds a leaderboard with passes 160, not 8" in capsys.readouterr().err
    assert main(["bench", "--methods", "sds", "--out", str(out)]) == 2
    assert "holds files already" in capsys.readouterr().err
