import csv
import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from limbeck.leaderboard.execution.image_results import CellResult
from limbeck.leaderboard.execution.row_failures import RowFailures
from limbeck.leaderboard.execution.text_to_image import (
    SAMPLING,
    TunedSetting,
    default_guidance,
    method_with,
)
from limbeck.leaderboard.images import cells, conduct, folder
from limbeck.leaderboard.images.cells import Cell, compute_cell, experiment_of, steps_within
from limbeck.leaderboard.images.conduct import RowCells, make_cells
from limbeck.leaderboard.images.judgment import judge_distances, judge_retrieval, tuning_objective
from limbeck.leaderboard.images.protocol import Leaderboard, candidates
from limbeck.leaderboard.images.table import RowJudge, ordered, short, to_markdown
from limbeck.leaderboard.images.time_left import TimeLeft
from limbeck.leaderboard.report.judged_row import to_csv
from limbeck.priors.loading import load
from limbeck.training.trainer import Run
from limbeck.world.pretrained import load_evaluator
from limbeck.world.render_cache import images_to_tensor
from limbeck.world.scene import full_captions, render_scenes

BOARD = Leaderboard(("sds", "vsd", SAMPLING), num_prompts=3, seeds=2, tuning_prompts=2, passes=8)


@pytest.fixture(scope="module")
def world():
    return load("world", "cpu", "float32")


@pytest.fixture(scope="module")
def evaluator():
    return load_evaluator()


def cell(name: str, prompts: tuple[str, ...], **changes) -> Cell:
    default = Cell(name, TunedSetting(0.1, 7.5), prompts, 1, 4, 0, "float32")
    return replace(default, **changes)


def true_images(board: Leaderboard, images: int) -> torch.Tensor:
    """Renders of the captions of the comparison."""
    scenes, _ = board.scenes()
    renders = (images_to_tensor(render_scenes(scenes)) * 255).round().to(torch.uint8)
    return renders.repeat_interleave(images, 0)


def result(images: torch.Tensor, **changes) -> CellResult:
    return replace(CellResult(images, 4, 8.0, 0.5, ()), **changes)


def test_every_row_has_equally_many_candidates():
    board = Leaderboard()
    counts = {name: len(set(candidates(board, name))) for name in board.rows}
    assert set(counts.values()) == {8}
    assert {SAMPLING, "sds", "vsd", "ism", "csd"} <= set(counts)
    assert not {"dds", "pds", "sdedit", "irfds"} & set(counts)


def test_settings_reach_the_method():
    assert method_with("sds", TunedSetting(0.1, 3.0)).guidance == 3.0
    assert default_guidance("csd") is None
    assert (
        method_with("csd", TunedSetting(0.1, None))
        == type(method_with("csd", TunedSetting(0.1, None)))()
    )


def test_prompts_of_tuning_and_comparison_differ_and_are_held_out():
    compared, tuned = (full_captions(scenes) for scenes in Leaderboard().scenes())
    assert (len(compared), len(tuned)) == (96, 16)
    assert len({*compared, *tuned}) == 112
    # more prompts keep the first ones, so that their cells stay valid
    assert full_captions(Leaderboard(num_prompts=8, tuning_prompts=0).scenes()[0])[0] != ""


def test_quick_is_smaller_and_untuned():
    board = Leaderboard(quick=True)
    assert (board.num_prompts, board.seeds, board.passes, board.iterations) == (8, 1, 300, 0)
    assert {len(candidates(board, name)) for name in board.rows} == {1}
    assert candidates(board, "jsd")[0].guidance == 13.5  # that of the authors' code
    assert candidates(board, "sds")[0].guidance == 7.5  # that of the embedded model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("sdss",)}, "no method is called 'sdss'. Did you mean sds"),
        ({"methods": ("dds",)}, "dds starts from an image, .*; accepted: sampling, asd"),
        ({"lr_candidates": ()}, "lr_candidates must be positive"),
        ({"guidance_candidates": (7.5, -1.0)}, "guidance_candidates must be positive"),
        ({"num_prompts": 0}, "num_prompts"),
        ({"num_prompts": 100_000}, "num_prompts must be at most 1000"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Leaderboard(**options)


def test_each_part_of_a_cell_changes_its_file():
    first = cell("sds", ("a red mug",))
    others = [
        cell("vsd", ("a red mug",)),
        cell("sds", ("a blue mug",)),
        cell("sds", ("a red mug",), setting=TunedSetting(0.1, 8.0)),
        cell("sds", ("a red mug",), setting=TunedSetting(0.05, 7.5)),
        *(cell("sds", ("a red mug",), **{k: 3}) for k in ("images", "steps", "seed")),
        cell("sds", ("a red mug",), precision="bfloat16"),
    ]
    assert len({c.path for c in (first, *others)}) == len(others) + 1
    assert first.path == cell("sds", ("a red mug",)).path


def test_passes_are_kept(world):
    """Two passes a step for SDS."""
    found = compute_cell(cell("sds", ("a red mug", "a blue cube")), world)
    assert (found.steps, found.passes) == (4, 8.0)
    assert found.images.shape == (2, 3, 64, 64) and found.images.dtype == torch.uint8


@pytest.mark.parametrize(("name", "steps"), [("sds", 300), ("ism", 100), ("hifa", 75)])
def test_steps_follow_from_the_passes_of_a_step(name, steps, world):
    assert steps_within(600, name, TunedSetting(0.1, 7.5), world) == steps
    assert steps_within(600, SAMPLING, TunedSetting(0.0, 7.5), world) == 50
    # fewer passes than those of 50 steps pay for fewer: two a step, one without guidance
    assert steps_within(60, SAMPLING, TunedSetting(0.0, 7.5), world) == 30
    assert steps_within(60, SAMPLING, TunedSetting(0.0, 1.0), world) == 50


def test_equal_steps_share_the_cells_of_equal_passes(world):
    """300 steps of SDS are 600 passes: its images are made once."""
    setting = TunedSetting(0.1, 7.5)
    board = Leaderboard(iterations=300)
    passes = make_cells(board, "sds", setting, ("a red mug",), 2)
    assert passes == make_cells(board, "sds", setting, ("a red mug",), 2, "iterations")


@pytest.mark.parametrize("name", ["sds", "vsd"])
def test_prompts_do_not_influence_each_other(name, world):
    """A critic is trained for each prompt; without one, particles are independent."""
    both = compute_cell(cell(name, ("a red mug", "a blue cube")), world).images
    alone = compute_cell(cell(name, ("a red mug",)), world).images
    assert (both[:1].int() - alone.int()).abs().max() <= 1


def test_prompts_with_a_critic_have_noise_of_their_own(world):
    """Their runs are separate, and with one seed all would start from the same latents."""
    prompts = ("a red mug", "a blue cube", "a pink duck")
    runs = [
        Run(experiment_of(cell("vsd", prompts), (prompt,)), world, pretrain=False)
        for prompt in prompts
    ]
    starts = [next(run.representation.parameters()).flatten() for run in runs]
    assert runs[0].experiment.seed == 0
    assert torch.corrcoef(torch.stack(starts)).triu(1).abs().max() < 0.2


def test_a_budget_below_one_step_is_refused(world):
    with pytest.raises(ValueError, match="a step of hifa takes 8 network passes, more than the 7"):
        steps_within(7, "hifa", TunedSetting(0.1, 7.5), world)


def test_a_method_of_ones_own_is_compared(world, tmp_path):
    """Its cells are known by the content of its file, too."""
    path = tmp_path / "mine.py"
    text = "from limbeck.methods.sds import SDS\n\n\nclass Mine(SDS):\n    pass\n"
    path.write_text(text, encoding="utf-8")
    board = Leaderboard((f"{path}:Mine",), num_prompts=1, tuning_prompts=0, passes=8)
    setting = candidates(board, board.rows[0])[0]
    (mine,) = make_cells(board, board.rows[0], setting, ("a red mug",), 1)
    found = compute_cell(replace(mine, precision="float32"), world)
    plain = replace(cell("sds", ("a red mug",)), setting=setting)
    assert torch.equal(found.images, compute_cell(plain, world).images)
    path.write_text(text + "# changed\n", encoding="utf-8")
    (changed,) = make_cells(board, board.rows[0], setting, ("a red mug",), 1)
    assert changed.path != mine.path and changed.path.name.endswith(".safetensors")


def test_a_diverged_run_is_gray_and_counted(world, monkeypatch):
    monkeypatch.setattr(cells, "_make_images", lambda *arguments: None)
    found = compute_cell(cell("sds", ("a red mug", "a blue cube")), world)
    assert found.diverged == (0, 1) and (found.images == 127).sum() + (found.images == 128).sum()


def test_a_result_is_read_back(tmp_path):
    found = result(torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8), diverged=(1,))
    found.save(tmp_path / "cells" / "x.safetensors", cell("sds", ("a",)))
    again = CellResult.load(tmp_path / "cells" / "x.safetensors")
    assert torch.equal(again.images, found.images)
    assert (again.steps, again.passes, again.seconds, again.diverged) == (4, 8.0, 0.5, (1,))


def test_the_objective_prefers_true_images(evaluator):
    scenes, _ = BOARD.scenes()
    prompts, images = full_captions(scenes), true_images(BOARD, 1)
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    assert tuning_objective(images, prompts, evaluator) > 0.9
    assert tuning_objective(noise, prompts, evaluator) < 0.5


def test_tuning_takes_the_best_setting(tmp_path):
    """Of settings whose images are given: the renders win."""
    board = replace(BOARD, methods=("sds",), lr_candidates=(0.05, 0.1))
    _, scenes = board.scenes()
    prompts = full_captions(scenes)
    renders = (images_to_tensor(render_scenes(scenes)) * 255).to(torch.uint8)
    best = TunedSetting(0.1, 25.0)
    for setting in candidates(board, "sds"):
        (group,) = make_cells(board, "sds", setting, prompts, 1)
        images = renders if setting == best else torch.full_like(renders, 127)
        result(images).save(tmp_path / group.path, group)
    pool, clock = None, TimeLeft(1)
    chosen = conduct._tune(board, prompts, tmp_path, pool, clock, RowFailures())  # type: ignore[arg-type]
    assert chosen == {"sds": best}
    assert (tmp_path / "tuning.json").read_text().count('"chosen": true') == 1


def judged(tmp_path, evaluator, wrong: int = 2):
    """A leaderboard whose SDS is perfect and whose VSD has some wrong prompts."""
    prompts = full_captions(BOARD.scenes()[0])
    rows = []
    for name in ("sds", "vsd"):
        found = make_cells(BOARD, name, TunedSetting(0.1, 7.5), prompts, BOARD.seeds)
        (first,) = found
        images = true_images(BOARD, BOARD.seeds)
        if name == "vsd":
            images[: wrong * BOARD.seeds] = 127
        result(images).save(tmp_path / first.path, first)
        rows.append(RowCells(name, "passes", first.setting, found, ()))
    return RowJudge(BOARD, tmp_path, evaluator).judge(rows), rows


def test_the_table_is_paired_by_prompt(tmp_path, evaluator):
    rows, _ = judged(tmp_path, evaluator)
    by_name = {row.name: row for row in rows}
    assert by_name["sds"].values["all"].value == 1
    assert by_name["renders"].values["all"].value > 0.8  # other captions
    assert not any("frechet" in row.values for row in rows)  # six images
    assert by_name["vsd"].values["all"].value == pytest.approx(1 / 3)
    assert not by_name["sds"].differences
    difference = by_name["vsd"].differences["all"]
    assert difference.value == pytest.approx(-2 / 3) and difference.by_unit == (-1, -1, 0)
    assert by_name["vsd"].values["fidelity"].value == pytest.approx(1 / 3)
    assert [row.name for row in ordered(rows, "passes")] == ["renders", "sds", "vsd"]


def test_every_metric_has_its_difference_to_sds(tmp_path, evaluator):
    rows, computed = judged(tmp_path, evaluator)
    vsd = next(row for row in rows if row.name == "vsd")
    assert set(vsd.differences) == set(vsd.values)
    for name, difference in vsd.differences.items():
        sds = next(row for row in rows if row.name == "sds").values[name]
        assert difference.value == pytest.approx(vsd.values[name].value - sds.value, abs=1e-9)
    same = replace(computed[0], name="csd")
    again = RowJudge(BOARD, tmp_path, evaluator).judge([computed[0], same])
    assert {value.value for value in again[1].differences.values()} == {0.0}


def test_prompts_whose_run_was_stopped_are_counted(tmp_path, evaluator):
    prompts = full_captions(BOARD.scenes()[0])
    (first,) = make_cells(BOARD, "sds", TunedSetting(0.1, 7.5), prompts, BOARD.seeds)
    result(true_images(BOARD, BOARD.seeds), diverged=(2,)).save(tmp_path / first.path, first)
    row = RowCells("sds", "passes", first.setting, (first,), ())
    value = RowJudge(BOARD, tmp_path, evaluator).judge([row])[0].values["diverged"]
    assert value.by_unit == (0, 0, 1)
    # logit(1/3) = -.693, half width 4.303 * .577 / sqrt(3) / (2 / 9) = 6.454
    assert value.interval == pytest.approx((7.87e-4, 0.9969), rel=2e-3)


def test_true_renders_are_near_each_other(evaluator):
    """Two true draws: coverage and density near their expectation, noise far off."""
    board = replace(BOARD, num_prompts=40)
    first, second = (board.reference_scenes(40, part) for part in (0, 1))
    true, pixels = (images_to_tensor(render_scenes(scenes)) for scenes in (first, second))
    own, names = (pixels * 255).to(torch.uint8), [str(i) for i in range(40)]
    found = judge_distances(own, names, true, evaluator)
    assert set(found) == {"kid", "precision", "recall", "density", "coverage"}  # 40 images
    assert found["coverage"].value > 0.8 and found["precision"].value > 0.7
    noise = judge_distances(torch.randint_like(own, 256), names, true, evaluator)
    assert noise["coverage"].interval[1] < found["coverage"].value
    assert noise["kid"].interval[0] > found["kid"].interval[1]


def test_r_precision_of_renders_and_of_exchanged_images(evaluator):
    """Renders fit their own caption; those of the next caption never do."""
    board = replace(BOARD, num_prompts=24)
    scenes, _ = board.scenes()
    prompts = full_captions(scenes)
    own = (images_to_tensor(render_scenes(scenes)) * 255).round().to(torch.uint8)
    assert judge_retrieval(own, prompts, evaluator)["r_precision"].value > 0.9
    assert judge_retrieval(own.roll(1, 0), prompts, evaluator)["r_precision"].value < 0.05
    assert judge_retrieval(own[:1], prompts[:1], evaluator) == {}


def test_rows_are_reported_when_they_are_complete(tmp_path, monkeypatch):
    """A running leaderboard has a table of its finished rows."""
    setting = TunedSetting(0.1, 7.5)
    rows = [
        RowCells(name, "passes", setting, make_cells(BOARD, name, setting, ("a red mug",), 1), ())
        for name in ("sds", "vsd", "sjc")
    ]
    gray = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)

    def compute(cells, out, pool, what, clock, failures, computed):
        for own in cells:
            if not (out / own.path).exists():
                result(gray).save(out / own.path, own)
                computed()

    monkeypatch.setattr(conduct, "_compute", compute)
    result(gray).save(tmp_path / rows[1].cells[0].path, rows[1].cells[0])
    seen: list[tuple[list[str], int]] = []
    conduct._compute_rows(
        rows,
        tmp_path,
        None,
        lambda found, total: seen.append(([r.name for r in found], total)),
        TimeLeft(1),
        RowFailures(),
    )
    assert seen == [(["vsd"], 3), (["sds", "vsd"], 3), (["sds", "vsd", "sjc"], 3)]


def test_csv_and_markdown_hold_the_same(tmp_path, evaluator):
    rows, _ = judged(tmp_path, evaluator)
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    line = next(x for x in lines if (x["row"], x["metric"]) == ("vsd", "all"))
    assert float(line["low"]) <= float(line["value"]) == pytest.approx(1 / 3, abs=1e-4)
    assert (line["guidance"], line["lr"], line["steps"]) == ("7.5", "0.1", "4")
    text = to_markdown(BOARD, rows)
    assert "| vsd | .33 [" in text
    low, high = next(row for row in rows if row.name == "vsd").differences["all"].interval
    # a table finds 1.4286 half widths of its intervals in four of five cases
    found = short(1.4286 * (high - low) / 2)
    assert f"difference to SDS in four of five cases if it is at least {found} in all" in text


def test_the_page_needs_nothing_else(tmp_path, evaluator):
    from limbeck.leaderboard.images.page import Missing, write_leaderboard_page

    rows, computed = judged(tmp_path, evaluator)
    text = write_leaderboard_page(BOARD, computed, rows, tmp_path).read_text(encoding="utf-8")
    assert "At 8 network passes per image" in text and text.count("<img") == 2 * 3
    plain = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)  # names of formats, not addresses
    assert "http" not in plain
    assert "Not finished" not in text and "<b>-.67</b>" not in text  # three prompts show nothing
    text = write_leaderboard_page(BOARD, computed, rows, tmp_path, Missing(2)).read_text("utf-8")
    assert "2 rows are still missing" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--passes 1", "a step of sds takes 2 network passes, more than the 1"),
        ("--num-prompts 900", "fewer than 902 held-out captions"),
        ("--num-prompts 100000", "--num-prompts must be at most 1000"),
        ("--edits --methods irfds --passes 40", "passes must be at least 64 with irfds"),
    ],
)
def test_what_cannot_be_compared_leaves_nothing(options, message, tmp_path, capsys):
    from limbeck.cli.main import main

    out = tmp_path / "board"
    words = ["bench", "--out", str(out)]
    words += ["--methods", "sds", "--tuning-prompts", "2"] if "--edits" not in options else []
    assert main([*words, *options.split()]) == 2
    assert message in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("name", ["tuning_prompts", "diverse_prompts", "iterations"])
def test_quick_refuses_what_it_leaves_out(name):
    with pytest.raises(ValueError, match=f"{name} has no effect with quick"):
        Leaderboard(quick=True, **{name: 3})


def test_a_folder_is_refused_before_the_work_begins(tmp_path, capsys):
    from limbeck.cli.main import main

    (tmp_path / "notes.txt").write_text("mine")
    assert main(["bench", "--methods", "sds", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "holds files already" in error and "counting" not in error


def test_the_row_that_is_first_complete_may_be_at_equal_steps(tmp_path, monkeypatch):
    row = RowCells("sds", "iterations", TunedSetting(0.1, 7.5), (), ())
    written = []
    monkeypatch.setattr(folder, "RowJudge", lambda *_: SimpleNamespace(judge=lambda rows: rows))
    monkeypatch.setattr(folder, "write_leaderboard_table", lambda *_: written.append("table"))
    monkeypatch.setattr(folder, "write_leaderboard_page", lambda *_: written.append("page"))
    monkeypatch.setattr(folder, "run_leaderboard", lambda *args: args[-2]([row], 2))
    folder.write_leaderboard(BOARD, tmp_path, 1)
    assert written == ["table", "page"] and not (tmp_path / "leaderboard.png").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of an idle core
def test_a_leaderboard_from_the_command_line_continues(tmp_path, capsys):
    from limbeck.cli.main import main

    out = tmp_path / "board"
    options = "--methods sampling sds --num-prompts 2 --tuning-prompts 1 --passes 8 --iterations 2"
    command = ["bench", "--out", str(out), *options.split(), "--workers", "2"]
    assert main([*command, "--diverse-prompts", "1"]) in (0, None)

    def times():
        parts = [*(out / "cells").iterdir(), *(out / "measurements").iterdir()]
        return {path: path.stat().st_mtime_ns for path in parts}

    before = times()
    victims = [next(p for p in before if p.name.startswith(n)) for n in ("sds-curve", "sds")]
    for path in victims:
        path.unlink()
    assert main([*command, "--diverse-prompts", "1"]) in (0, None)
    after = times()
    assert set(after) == set(before)
    assert {path for path in after if after[path] != before[path]} == set(victims)
    text = capsys.readouterr().out
    assert "At about 8 passes per image" in text and "snr_0.9" in text and "memory" in text
    assert "Quality against network passes" in (out / "leaderboard.html").read_text("utf-8")
    assert (out / "leaderboard.png").is_file()
