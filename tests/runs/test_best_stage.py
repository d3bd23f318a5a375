"""Which stage of a preset is the best, by the evaluator and without it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ball_representation import Ball, Object
from painted_ball import Ball as PaintedBall
from painted_ball import ball

from limbeck.config import yaml as config
from limbeck.graphics.geometry.shape_facts import ShapeFacts
from limbeck.metrics.intervals import mean_interval
from limbeck.priors.exact import colored_shapes
from limbeck.runs import best_stage
from limbeck.runs.best_stage import JudgedViews, best_of, choose_stage
from limbeck.runs.reopen import BEST_STAGE
from limbeck.runs.reopen import best_stage as find_best_stage
from limbeck.system.checkpoint import write_checkpoint
from limbeck.training.experiment import Experiment

BALL = ShapeFacts(pieces=1, handles=0, box_contact=0.0)
CUT = ShapeFacts(pieces=1, handles=0, box_contact=0.05)


def judged(name, right=None, shapes=(BALL,)):
    views = None if right is None else torch.arange(32) < right
    return JudgedViews(Path("runs/chair") / name, views, None, shapes)


def write_stage(folder, representation, prompt="a yellow duck", model="world"):
    """Write what is needed of the run folder of a finished stage."""
    e = Experiment((prompt,), model=model, representation=representation, steps=1)
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(config.to_yaml(e), encoding="utf-8")
    particles = representation.build(colored_shapes(size=64), 1, 0)
    tensors = {f"representation.{name}": value for name, value in particles.state_dict().items()}
    write_checkpoint(folder / "checkpoint.safetensors", tensors, {"step": 1})
    return folder


@pytest.fixture
def quick_prior(monkeypatch):
    """A model of the world's image size that loads at once."""
    monkeypatch.setattr(best_stage, "load", lambda *a: colored_shapes(size=64))


@pytest.mark.parametrize(
    ("rights", "best"),
    [
        ((31, 0, 20), "0"),  # 11 of 32 views lost
        ((32, 0, 31), "2"),  # one view is within the interval
        ((20, 0, 31), "2"),
        ((20, 31, 31), "2"),  # equal: the last
        ((31, 31, 0), "1"),  # equal: the later
        ((20, 31, 0), "1"),
    ],
)
def test_an_earlier_stage_is_best_only_if_its_interval_says_so(rights, best):
    stages = [judged(str(i), right) for i, right in enumerate(rights)]
    assert best_of(stages).folder.name == best


def test_without_the_evaluator_growth_into_the_box_and_lost_surfaces_decide():
    before = judged("before")
    assert best_of([before, judged("after", shapes=(CUT,))]) is before
    assert best_of([before, judged("after", shapes=())]) is before
    cut = judged("before", shapes=(CUT,))
    assert best_of([cut, judged("after", shapes=(CUT,))]) is not cut
    assert best_of([before, judged("after")]) is not before


def test_stages_of_other_sizes_and_numbers_of_particles_are_compared_where_they_can_be():
    """A stage of one particle in 8 x 8 pixels, and one of two in 16 x 16."""
    first, last = (
        JudgedViews(
            Path("runs/chair") / name,
            torch.ones(count, dtype=torch.bool),
            torch.ones(count, size, size, dtype=torch.bool),
            shapes,
            {name: torch.ones(count) for name in ("object", "view", "true_color")},
        )
        for name, count, size, shapes in (("1-a", 32, 8, (BALL,)), ("2-b", 64, 16, ()))
    )
    assert best_of([first, last]) is first
    reason = "the surface of 2-b is lost or has grown into its box"
    assert reason in best_stage._choice_message(first, last)
    assert best_stage._changes([first, last]) == ["2-b beside 1-a: the surface is lost"]
    kept = replace(last, shapes=(BALL, BALL))
    assert best_of([first, kept]) is kept


def test_a_spoiled_last_stage_is_said_and_not_exported(tmp_path, quick_prior, capsys):
    """A duck that turns into a ball, and the other way round."""
    duck, ball = Object(), Ball(radius=0.3)
    first, last = (
        write_stage(tmp_path / "a" / name, part)
        for name, part in (("1-field", duck), ("2-texture", ball))
    )
    message, change = choose_stage([first, last])
    assert message.startswith("best stage: 1-field; 100 % of its views are right, and of 2-texture")
    assert f"limbeck export {tmp_path / 'a'} takes it" in message
    pattern = (
        r"2-texture beside 1-field: object -100 points \(95 % -100 to -\d\d\); view -\d\d points "
        r"\(95 % -\d\d to -\d\d\); silhouettes overlap by \d\d % only"
    )
    assert re.fullmatch(pattern, change), change
    assert capsys.readouterr().err.splitlines() == [message, change]
    assert find_best_stage(tmp_path / "a") == first

    stages = [write_stage(tmp_path / "b" / "1-field", ball)]
    stages.append(write_stage(tmp_path / "b" / "2-texture", duck))
    assert choose_stage(stages)[0].startswith(
        "best stage: 2-texture, the last, 100 % of its views right; no earlier one"
    )
    assert find_best_stage(tmp_path / "b") == stages[1]


def test_each_stage_is_judged_against_the_one_before_with_an_interval():
    """Nine of ten views lose their object, then nothing changes."""
    before, after = torch.ones(30), (torch.arange(30) < 3).float()
    low, high = mean_interval((after - before).tolist(), (0.0, 1.0), is_difference=True)
    stages = [
        JudgedViews(Path(f"runs/chair/{i}"), None, None, (BALL,), {"object": share})
        for i, share in enumerate((before, after, after))
    ]
    low_zero, high_zero = mean_interval([0.0] * 30, (0.0, 1.0), is_difference=True)
    assert best_stage._changes(stages) == [
        f"1 beside 0: object -90 points (95 % {100 * low:.0f} to {100 * high:.0f})",
        f"2 beside 1: object +0 points (95 % {100 * low_zero:.0f} to {100 * high_zero:.0f})",
    ]
    assert -1 <= low < -0.9 < high < -0.6 and low_zero < 0 < high_zero


def test_stains_are_colors_that_true_renders_lack(tmp_path, quick_prior):
    """The right half of a duck turns blue, and back."""
    stages = [
        write_stage(tmp_path / f"{i}-s", Object(stained=stained))
        for i, stained in enumerate((False, True, False))
    ]
    _, stained, clean = choose_stage(stages)
    pattern = r"(\d+) % of its pixels are stained, \+(\d+) points \(95 % (\d+) to (\d+)\)$"
    share, more, low, high = map(int, re.search(pattern, stained).groups())
    assert 40 < share < 60 and share - more <= 3 and low <= more <= high < low + 15
    assert "stained" not in clean


def test_views_without_pixels_have_no_stains():
    """A view that shows nothing says nothing of colors, and a few percent are no stain."""

    def stage(name, *shares):
        return JudgedViews(Path(name), None, None, (), {"true_color": torch.tensor(shares)})

    empty, full = float("nan"), stage("full", 1.0, 1.0, 1.0, 1.0)
    (line,) = best_stage._changes([full, stage("half", 0.5, empty, 0.6, 0.55)])
    assert line.startswith("half beside full: 45 % of its pixels are stained, +45 points (95 % ")
    assert not best_stage._changes([full, stage("fog", empty, empty, empty, empty)])
    assert not best_stage._changes([full, stage("nearly", 0.97, 0.96, 0.97, 0.96)])
    assert not best_stage._changes([full, stage("one", 0.3, 1.0, 1.0, 1.0)])  # by chance


def test_a_foreign_prompt_has_no_evaluator(tmp_path, quick_prior):
    stages = [write_stage(tmp_path / f"{i}-s", Ball(), "a red disc") for i in (1, 2)]
    assert choose_stage(stages) == ["best stage: 2-s, the last; no earlier one is clearly better"]


def test_splats_have_a_surface_of_their_own(tmp_path, quick_prior, monkeypatch):
    monkeypatch.setattr(best_stage, "splats_to_surface", lambda splats: ball(1))  # takes seconds
    folder = tmp_path / "a"
    kinds = ("surface", "splats", "nothing")
    stages = [
        write_stage(folder / f"{i}-{kind}", PaintedBall(kind=kind), "a red disc")
        for i, kind in enumerate(kinds)
    ]
    choice, change = choose_stage(stages)  # the splats are as good as the surface before them
    assert choice.startswith("best stage: 1-splats; the surface of 2-nothing is lost")
    assert change == "2-nothing beside 1-splats: the surface is lost"


def test_a_single_stage_is_not_compared(tmp_path):
    assert choose_stage([write_stage(tmp_path / "1-field", Ball())]) == []
    assert not (tmp_path / BEST_STAGE).exists()


def test_a_comparison_that_fails_costs_nothing_else(tmp_path, quick_prior):
    stages = [write_stage(tmp_path / f"{i}-s", Ball()) for i in (1, 2)]
    (stages[0] / "checkpoint.safetensors").unlink()
    (message,) = choose_stage(stages)
    assert message.startswith("stages could not be compared: ")
    assert find_best_stage(tmp_path) == stages[1]


def test_the_best_stage_of_a_folder_without_a_choice_is_the_last(tmp_path):
    stages = [write_stage(tmp_path / f"{i}-s", Ball()) for i in (1, 2)]
    assert find_best_stage(tmp_path) == stages[1]
    assert find_best_stage(stages[0]) == stages[0]
    (tmp_path / BEST_STAGE).write_text(json.dumps({"best": "7-gone"}), encoding="utf-8")
    assert find_best_stage(tmp_path) == stages[1]
