"""The leaderboard on exact priors: settings, seeds, known answers, the command."""

import csv
import io
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from own_component import OWN_METHOD

from limbeck.cli.main import main
from limbeck.leaderboard.exact_priors import conduct as exact_conduct
from limbeck.leaderboard.exact_priors.cells import (
    NO_STEP,
    TRUE_DRAWS,
    ExactCell,
    ExactResult,
    compute_exact,
    exact_experiment,
    exact_steps_within,
    measure_particles,
)
from limbeck.leaderboard.exact_priors.conduct import (
    ExactRow,
    check_exact_leaderboard,
    law_digest,
    make_exact_cells,
)
from limbeck.leaderboard.exact_priors.judgment import (
    MINUS_START,
    MINUS_TRUE,
    judge_exact_rows,
    ordered_exact_rows,
)
from limbeck.leaderboard.exact_priors.protocol import (
    TUNING_SEEDS,
    ExactLeaderboard,
    exact_candidates,
    load_law,
    reads_prompt,
)
from limbeck.leaderboard.exact_priors.table import chance_text, exact_rows_to_markdown
from limbeck.leaderboard.execution.folder import open_leaderboard
from limbeck.leaderboard.execution.text_to_image import SAMPLING, TunedSetting
from limbeck.leaderboard.report.judged_row import to_csv
from limbeck.metrics.estimate import mean_estimate
from limbeck.metrics.true_law import draw_from_law
from limbeck.priors.exact import colored_shapes
from limbeck.studies.distribution import three_gaussians
from limbeck.training.trainer import Run

PLANE = f"{Path(__file__).parents[3] / 'examples' / 'plane_prior.py'}:Plane"
BOARD = ExactLeaderboard(PLANE, "all", ("sds", SAMPLING), 64, seeds=4, passes=60, iterations=0)
PLAIN = TunedSetting(0.0, 1.0)
SEEDS = 6


def cell(name: str, **changes) -> ExactCell:
    default = ExactCell(name, TunedSetting(0.05, 1.0), "all", 64, 60, 0, True)
    return replace(default, **changes)


def test_every_row_has_equally_many_candidates():
    board = ExactLeaderboard()
    for has_guidance in (True, False):
        counts = {
            name: len(set(exact_candidates(board, name, has_guidance)))
            for name in board.rows
            if has_guidance or name != SAMPLING
        }
        assert set(counts.values()) == {8} and {"sds", "vsd", "csd"} <= set(counts)
    # guidance without an effect only doubles the passes
    assert {own.guidance for own in exact_candidates(board, "sds", False)} == {1.0}
    assert exact_candidates(board, SAMPLING, False) == (PLAIN,)
    untuned = replace(board, tuning_seeds=0)
    assert exact_candidates(untuned, "hifa", True) == (TunedSetting(0.05, 1.0),)


def test_guidance_counts_where_the_prompt_selects_modes():
    assert reads_prompt(colored_shapes(size=8), "ring")
    assert not reads_prompt(colored_shapes(size=8), "disc square ring")
    assert not reads_prompt(three_gaussians(), "all")


def test_seeds_of_tuning_and_comparison_differ():
    cells = [
        *make_exact_cells(BOARD, "sds", PLAIN),
        *make_exact_cells(BOARD, "sds", PLAIN, is_tuning=True),
    ]
    assert [own.seed for own in cells] == [0, 1, 2, 3, 1_000_000, 1_000_001]
    assert [own.keeps_particles for own in cells] == 4 * [True] + 2 * [False]
    assert len({own.path for own in cells}) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "gausians"}, "no exact prior is called 'gausians'. Did you mean gaussians?"),
        ({"model": "world"}, "no exact prior is called 'world'"),
        ({"prompt": " "}, "prompt is missing"),
        ({"methods": ("dds",)}, "dds starts from an image"),
        ({"methods": ("sdss",)}, "Did you mean sds"),
        ({"lr_candidates": ()}, "lr_candidates must be positive"),
        ({"guidance_candidates": (0.0,)}, "guidance_candidates must be positive"),
        ({"particles": 1}, "particles must be at least 2"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExactLeaderboard(**options)


def test_a_method_that_needs_a_prompt_is_refused_where_the_law_has_none():
    board = replace(BOARD, methods=("csd",))
    with pytest.raises(ValueError, match=r"the direction of csd is zero on .* given 'all'"):
        check_exact_leaderboard(board)
    with pytest.raises(ValueError, match="names nothing of this model; words it knows: blue"):
        check_exact_leaderboard(ExactLeaderboard(prompt="duck", methods=("sds",)))
    with pytest.raises(ValueError, match=r"a step of sdi takes 13 .* more than the 5 there are"):
        check_exact_leaderboard(replace(BOARD, methods=("sdi",), passes=5))


def test_without_a_choice_such_methods_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(
        "limbeck.leaderboard.exact_priors.protocol.text_to_image_methods", lambda: ("csd", "sds")
    )
    board = check_exact_leaderboard(replace(BOARD, methods=()))
    assert board.methods == (SAMPLING, "sds")
    assert "left out csd: the direction of csd is zero" in capsys.readouterr().err


def test_a_prior_without_a_known_law_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from limbeck.priors.exact import colored_shapes\n"
        "class Mine:\n"
        "    def __init__(self):\n"
        "        own = self.own = colored_shapes(size=8)\n"
        "        self.shape, self.image_size, self.size_multiple = own.shape, (8, 8), 0\n"
        "        self.schedule, self.device, self.prediction_type = own.schedule, 'cpu', 'eps'\n"
        "        self.call_counter = own.call_counter\n"
        "    def __call__(self, xt, t, *conditions): return self.own(xt, t, *conditions)\n"
        "    def condition(self, prompts): return self.own.condition(prompts)\n"
        "    def encode(self, image): return self.own.encode(image)\n"
        "    def decode(self, x0): return self.own.decode(x0)\n"
    )
    with pytest.raises(ValueError, match="is a Mine, whose law is not known: derive it from"):
        load_law(f"{path}:Mine")


@pytest.mark.parametrize("name", [SAMPLING, "sds", "ism", "vsd", "hifa"])
def test_every_row_has_the_passes_of_the_board(name):
    prior, passes = colored_shapes(size=8), 40
    for setting in (TunedSetting(0.1, 1.0), TunedSetting(0.1, 4.0)):
        steps = exact_steps_within(passes, name, setting, prior, "ring")
        result = compute_exact(
            cell(name, setting=setting, prompt="ring", particles=4, steps=steps), prior
        )
        assert result.steps == steps and result.particles.shape == (4, 3, 8, 8)
        assert abs(result.passes - passes) <= 5 and not result.diverged


def test_metrics_know_true_draws_and_single_modes():
    prior = three_gaussians()
    floor = compute_exact(cell(TRUE_DRAWS, particles=2000, steps=0), prior)
    values = floor.values
    assert abs(values["energy_distance"]) < 0.03 and values["mode_error"] < 0.05
    assert values["modes"] == 3 and values["spread"] == pytest.approx(1, abs=0.05)
    assert floor.passes == 0
    one_mode = prior.means[:1].repeat(100, 1) + 1e-3
    collapsed = measure_particles(one_mode, prior, "all", 0)
    assert collapsed["modes"] == 1 and collapsed["mode_error"] == pytest.approx(0.5)
    assert collapsed["spread"] < 0.01 and collapsed["log_p"] > values["log_p"]


def test_true_draws_are_independent_of_the_samples_they_are_compared_with():
    prior, distances = three_gaussians(), []
    for seed in range(40):
        draws = compute_exact(cell(TRUE_DRAWS, seed=seed), prior)
        rng = torch.Generator().manual_seed(1000 + seed)
        other = draw_from_law(prior, "all", 64, rng)  # of yet another seed
        expected = measure_particles(other, prior, "all", seed)
        distances.append((draws.values, expected))
    for name in ("energy_distance", "sliced_wasserstein", "mode_error"):
        own, others = (torch.tensor([pair[i][name] for pair in distances]) for i in range(2))
        error = (own.var() / 40 + others.var() / 40).sqrt()
        assert (own.mean() - others.mean()).abs() < 3 * error


def test_all_runs_of_a_seed_start_from_the_same_particles():
    prior = three_gaussians()
    start = compute_exact(cell(NO_STEP, steps=0), prior)
    assert start.passes == 0 and not start.diverged
    run = Run(exact_experiment(cell("sds")), prior)
    assert torch.equal(run.representation.render(run.eval_request(1)).image, start.particles)
    assert not torch.equal(compute_exact(cell(NO_STEP, seed=1), prior).particles, start.particles)


def test_only_modes_of_the_prompt_are_counted():
    prior = colored_shapes(size=8)
    draws = prior.means + prior.stds[:, None, None, None] * torch.randn(prior.means.shape)
    rings = measure_particles(draws, prior, "ring", 0)
    assert rings["modes"] == 4  # of twelve means
    assert rings["mode_error"] == pytest.approx(8 / 12)


def test_a_run_that_diverges_keeps_its_last_particles(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_METHOD.replace("return self.pull", "return float('nan')"))
    result = compute_exact(
        cell(f"{path}:Mine", setting=TunedSetting(0.05, None)), three_gaussians()
    )
    assert result.diverged and result.particles.isfinite().all()
    assert result.values["energy_distance"] > 0


def rows_of(folder, names):
    """Rows of the plane, computed."""
    prior, rows = three_gaussians(), []
    for name in names:
        setting = TunedSetting(0.1, 1.0) if name == "sds" else PLAIN
        cells = tuple(
            cell(name, setting=setting, seed=seed, steps=0 if name in (TRUE_DRAWS, NO_STEP) else 60)
            for seed in range(SEEDS)
        )
        for own in cells:
            compute_exact(own, prior).save(folder / own.path, own)
        rows.append(
            ExactRow(name, "passes", None if name in (TRUE_DRAWS, NO_STEP) else setting, cells)
        )
    return rows


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    return judge_exact_rows(rows_of(folder, (TRUE_DRAWS, NO_STEP, "sds", SAMPLING)), 3, folder)


def test_sampling_is_near_the_floor_and_sds_loses_modes(judged):
    by_name = {row.name: row for row in judged}
    sampling, sds = by_name[SAMPLING], by_name["sds"]
    assert sampling.values[MINUS_TRUE].value < 0.1 < sds.values[MINUS_TRUE].interval[0]
    # SDS leads away from the law, compared with the noise that it starts from
    assert sampling.values[MINUS_START].interval[1] < 0 < sds.values[MINUS_START].interval[0]
    assert sampling.values["modes"].value == 3
    # SDS covers fewer modes, and is further away: both intervals exclude zero
    assert sampling.differences["modes"].interval[0] > 0
    assert sampling.differences["energy_distance"].interval[1] < 0
    assert not sds.differences and not by_name[TRUE_DRAWS].differences
    order = [row.name for row in ordered_exact_rows(judged, "passes")]
    assert order == [TRUE_DRAWS, SAMPLING, NO_STEP, "sds"]


def test_differences_are_paired_by_seed(judged):
    by_name = {row.name: row for row in judged}
    own, other = (by_name[name].values["energy_distance"].by_unit for name in (SAMPLING, "sds"))
    paired = by_name[SAMPLING].differences["energy_distance"]
    expected = torch.tensor(own) - torch.tensor(other)
    assert paired.by_unit == pytest.approx(expected.tolist(), rel=1e-5) and len(own) == SEEDS
    # Student's t with 5 degrees of freedom
    half = 2.571 * expected.std().item() / SEEDS**0.5
    assert paired.interval[1] - paired.value == pytest.approx(half, rel=1e-3)


def test_csv_and_markdown_hold_the_same(judged):
    lines = list(csv.DictReader(io.StringIO(to_csv(judged))))
    found = {(row["row"], row["metric"]): row for row in lines}
    assert float(found[SAMPLING, "modes"]["value"]) == 3
    assert float(found[SAMPLING, "modes_minus_sds"]["low"]) > 0
    text = exact_rows_to_markdown(BOARD, judged)
    assert text.startswith("At 60 network passes per particle, " + PLANE)
    columns = {line.count(" | ") for line in text.splitlines() if line.startswith("| ")}
    assert len(columns) == 1
    assert "**" in next(line for line in text.splitlines() if line.startswith("| sampling |"))
    assert "Of 9 differences" in text and "fewer than one would by chance" in text
    assert chance_text([], BOARD) == ""
    assert "*Spread*" in text and "*Diverged*" not in text
    flat = [
        replace(row, values={"energy_distance": row.values["energy_distance"]}) for row in judged
    ]
    flat = [
        replace(row, values=row.values | {"diverged": mean_estimate([0.0, 0.0])}) for row in flat
    ]
    assert "*Spread*" not in exact_rows_to_markdown(BOARD, flat)  # a data set has distances only


@contextmanager
def _inline_pool(workers):
    """A pool that computes at once, in this process."""

    class Inline:
        def submit(self, function, *args):
            future: Future = Future()
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)
            return future

    yield Inline()


def test_the_command_tunes_compares_and_continues(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(exact_conduct, "worker_pool", _inline_pool)
    computed: list[ExactCell] = []

    def compute(own, prior) -> ExactResult:
        computed.append(own)
        return compute_exact(own, prior)

    monkeypatch.setattr(exact_conduct, "compute_exact", compute)
    mine, out = tmp_path / "mine.py", tmp_path / "board"
    mine.write_text(OWN_METHOD)
    argv = ["bench", "--model", PLANE, "--prompt", "all", "--out", str(out), "--passes", "6"]
    argv += ["--iterations", "4", "--seeds", "2", "--tuning-seeds", "1", "--particles", "8"]
    argv += ["--lr-candidates", "0.05", "0.1", "--guidance-candidates", "1"]
    assert main([*argv, "--methods", "sampling", "sds", f"{mine}:Mine"]) == 0
    # tuning: 1, 2 and 2 settings; true draws, no step, two budgets of three rows at two seeds
    assert len(computed) == 5 + 2 * 2 + 2 * 3 * 2
    text = capsys.readouterr().out
    assert "At 6 network passes per particle" in text and "At 4 steps" in text
    assert (
        text.count("| true draws |") == text.count("| no step |") == 2 and "mine.py:Mine |" in text
    )
    page = (out / "leaderboard.html").read_text(encoding="utf-8")
    assert "Leaderboard of 3 methods on an exact prior" in page and "2 other" not in page
    assert (out / "leaderboard.png").is_file() and (out / "leaderboard.csv").is_file()
    before = len(computed)
    victim = next((out / "cells").glob("sds-*"))
    victim.unlink()
    assert main([*argv, "--methods", "sds"]) == 0 and len(computed) == before + 1
    assert "mine.py:Mine |" in capsys.readouterr().out  # rows of the folder stay
    argv[argv.index("--seeds") + 1] = "3"
    assert main([*argv, "--methods", "sds"]) == 2
    assert "holds a leaderboard with seeds 2, not 3" in capsys.readouterr().err


def test_a_row_that_fails_leaves_the_others(monkeypatch, tmp_path, capsys):
    """Whether in the tuning or in the comparison; and the same command tries it again."""
    monkeypatch.setattr(exact_conduct, "worker_pool", _inline_pool)
    fails_in = {"tuning": True}

    def compute(own, prior) -> ExactResult:
        if own.name == "csd" and (own.seed >= TUNING_SEEDS) == fails_in["tuning"]:
            raise ValueError("too small a step")
        return compute_exact(own, prior)

    monkeypatch.setattr(exact_conduct, "compute_exact", compute)
    argv = ["bench", "--model", "gaussians", "--out", str(tmp_path), "--passes", "6"]
    argv += ["--iterations", "0", "--seeds", "2", "--tuning-seeds", "1", "--particles", "8"]
    argv += ["--lr-candidates", "0.05", "--guidance-candidates", "2"]
    for is_tuning in (True, False):
        fails_in["tuning"] = is_tuning
        assert main([*argv, "--methods", "sds", "csd"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "rows without a result: csd: too small a step. The table" in error
        text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
        assert "| sds |" in text and "csd" not in text
    monkeypatch.setattr(exact_conduct, "compute_exact", compute_exact)
    assert main([*argv, "--methods", "sds"]) == 0 and "| csd |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model gausians", "Did you mean gaussians?"),
        ("--model gaussians --prompt duck", "names nothing of this model"),
        ("--model gaussians --edits", "--edits compares on the embedded model, not gaussians"),
        ("--model gaussians --methods sdi --passes 5", "a step of sdi takes 13 network passes"),
        (f"--model {PLANE} --methods csd", "the direction of csd is zero"),
    ],
)
def test_what_cannot_be_compared_leaves_nothing(options, message, tmp_path, capsys):
    out = tmp_path / "board"
    words = ["bench", *options.split(), "--out", str(out)]
    words += [] if "--methods" in options else ["--methods", "sds"]
    assert main(words) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_a_folder_of_another_law_is_refused(tmp_path, capsys):
    out, path = tmp_path / "board", tmp_path / "plane_prior.py"
    source = PLANE.rpartition(":")[0]
    text = Path(source).read_text(encoding="utf-8").replace("[0.5, 0.35, 0.35]", "[WIDTH, 1, 1]")
    words = ["bench", "--model", f"{path}:Plane", "--quick", "--out", str(out), "--passes", "2"]
    words += ["--methods", "sds", "--particles", "4", "--workers", "1"]
    path.write_text(text.replace("WIDTH", "0.5"))
    board = ExactLeaderboard(f"{path}:Plane", "ring", ("sds",), 4, quick=True, passes=2)
    open_leaderboard(board, out, law_digest(load_law(board.model)))
    path.write_text(text.replace("WIDTH", "0.25"))
    assert main(words) == 2
    assert "another version of the model" in capsys.readouterr().err
