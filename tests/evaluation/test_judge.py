"""Evaluation of finished runs, and the command `limbeck eval`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ball_representation import Ball, Object
from tiny_clip import write_clip
from tiny_image_reward import write_image_reward

from limbeck.cli.judge_options import JudgeOptions
from limbeck.cli.main import main
from limbeck.config import yaml as config
from limbeck.evaluation.judge import RunJudges, evaluate_run, open_finished_run, run_family
from limbeck.evaluation.prompt_metrics import evaluate_prompt
from limbeck.evaluation.run_judge import RunJudge
from limbeck.evaluation.tables import summary_line
from limbeck.metrics.heldout_views import held_out_cameras, render_held_out
from limbeck.metrics.image_scores.base import ImageScore
from limbeck.metrics.image_scores.hps import HPS
from limbeck.metrics.image_scores.image_reward import ImageReward
from limbeck.metrics.intervals import mean_interval
from limbeck.metrics.true_object_colors import true_object_colors
from limbeck.priors.exact import colored_shapes
from limbeck.priors.loading import load
from limbeck.representations.dmtet import DMTet
from limbeck.representations.latents import Latents
from limbeck.system.checkpoint import write_checkpoint
from limbeck.training.experiment import Experiment
from limbeck.training.warm_start import load_representation
from limbeck.world.pretrained import load_evaluator
from limbeck.world.scene import VIEWS


def write_run(folder, representation, steps_done=1, **options):
    """Write what evaluation needs of a run folder."""
    defaults = {"prompts": ("a yellow duck",), "model": "world", "steps": 1}
    e = Experiment(**defaults | {"representation": representation} | options)
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(config.to_yaml(e))
    particles = representation.build(colored_shapes(size=64), e.total, e.seed)
    tensors = {f"representation.{name}": value for name, value in particles.state_dict().items()}
    write_checkpoint(folder / "checkpoint.safetensors", tensors, {"step": steps_done})
    (folder / "profile.json").write_text("{}")
    return folder


def write_foreign_run(folder):
    """A run whose prompt the evaluator does not know."""
    return write_run(folder, Ball(), model="gaussians", prompts=("a red disc",))


def test_a_run_is_evaluated_as_its_particles_are(tmp_path):
    # of the world's image size and quick to load
    prior, evaluator, cameras = colored_shapes(size=64), load_evaluator(), held_out_cameras(3.6, 40)
    run = open_finished_run(write_run(tmp_path / "run", Object(), particles=2))
    evaluation = evaluate_run(run, prior, RunJudges(evaluator))
    report, features = evaluation.report, evaluation.features
    images = render_held_out(Object().build(prior, 1, 0), prior, 0, cameras)
    colors = true_object_colors("a yellow duck")
    single = evaluate_prompt("a yellow duck", [images], cameras, evaluator, colors)
    row = report["prompts"][0]
    assert row["object"] == single.metrics["object"]
    assert row["verdicts"] == single.verdicts * 2
    assert evaluation.seed == 0
    assert evaluation.images["a yellow duck"].images.shape == (2, 32, 3, 64, 64)
    assert row["particles"] == [single.metrics] * 2 == single.particles * 2
    assert row["diversity"] == 0 and len(features[0].images) == 64 == len(features[0].renders)
    assert row["reference"].keys() == single.metrics.keys()
    assert 0.9 < row["true_color"] < row["reference"]["true_color"]
    assert report["mean"]["janus"] == row["janus"]
    assert report["views"][:2] == ["front", "front"] and report["views"][-1] == VIEWS[3]


def test_a_prompt_given_twice_is_one_unit_with_all_of_its_particles(tmp_path):
    folder = write_run(tmp_path / "run", Object(), prompts=("a yellow duck",) * 2)
    judges = RunJudges(load_evaluator())
    evaluation = evaluate_run(open_finished_run(folder), colored_shapes(size=64), judges)
    (row,) = evaluation.report["prompts"]
    assert len(row["particles"]) == 2 and row["diversity"] == 0
    assert evaluation.report["interval_over"] == "2 particles of 1 prompt"
    assert evaluation.images["a yellow duck"].images.shape[0] == 2


class Always(ImageScore):
    """A share that is 1 for every image."""

    bounds = (0.0, 1.0)

    def score(self, images, prompts):
        return torch.ones(len(images))


def test_intervals_of_a_score_stay_within_its_bounds(tmp_path):
    run = open_finished_run(write_run(tmp_path / "run", Object(), particles=3))
    evaluation = evaluate_run(run, colored_shapes(size=64), RunJudges(scores=(Always(),)))
    low, high = evaluation.report["intervals"]["always"]
    assert evaluation.report["bounds"] == {"always": (0.0, 1.0)}
    assert 0.3 < low < 0.6 and high == 1
    assert f"always 1.000 ({low:.3f} to 1.000)" in summary_line(evaluation.report)


def test_eval_prints_a_line_per_run_and_a_table_and_writes_a_file(tmp_path, capsys):
    a = write_run(tmp_path / "a", Object())
    b = write_run(tmp_path / "b", Object(), seed=1)
    c = write_run(tmp_path / "c", Object(faces=8))
    assert main(["eval", str(a), str(b), str(c), "--device", "cpu"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{a / 'eval.json'}: object ") and "Janus 0 %" in out[0]
    report = json.loads((a / "eval.json").read_text())
    assert report["cameras"]["distance"] == pytest.approx(3.6)
    assert report["prompts"][0]["prompt"] == "a yellow duck"
    cells = [[cell.strip() for cell in line.split("|")] for line in out if line.startswith("|")]
    rows = [row for row in cells if row[1] == "a yellow duck"]
    headings = [row for row in cells if row[1] == "prompt"]
    # two seeds of one family, one run of another
    assert [row[2] for row in rows] == ["2", "1"]
    assert "across seeds" in headings[0] and "diversity" not in headings[0]
    assert "across seeds" not in headings[1]
    assert rows[0][headings[0].index("across seeds")] == "0.000"  # the same duck twice
    assert out.count("across seeds: between particles of runs of different seeds") == 1
    page = (c / "report.html").read_text()
    janus = json.loads((c / "eval.json").read_text())["mean"]["janus"]
    assert "32 held-out cameras" in page and "duck yellow plain" in page
    assert f"<td>{100 * janus:.0f} %</td>" in page
    assert not list(tmp_path.rglob("*.part"))


def test_a_family_is_of_runs_that_differ_only_in_prompts_and_seed(tmp_path):
    e = Experiment(("a yellow duck",), representation=Object())
    assert run_family(e) == run_family(replace(e, prompts=("a red car",), seed=4))
    assert run_family(e) != run_family(replace(e, steps=7))
    # and, in a later stage of a preset, the run it is initialized from
    a, b = (replace(e, representation=DMTet(init_from=tmp_path / name)) for name in "ab")
    assert run_family(a) == run_family(b)


def test_of_a_preset_the_last_stage_is_evaluated(tmp_path):
    for name in ("1-field", "2-geometry", "10-texture"):
        write_run(tmp_path / "recipe" / name, Object())
    assert open_finished_run(tmp_path / "recipe").folder.name == "10-texture"


def refusal(capsys, *argv):
    assert main(list(argv)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_what_cannot_be_evaluated_is_refused_in_one_line(tmp_path, capsys):
    assert "a run folder is missing" in refusal(capsys, "eval")
    assert "no run.yaml" in refusal(capsys, "eval", str(tmp_path))
    flat = write_run(tmp_path / "flat", Latents(), model="gaussians", prompts=("a red disc",))
    assert "final holds no images to judge" in refusal(capsys, "eval", str(flat))
    done = write_run(tmp_path / "done", Object(), steps=9)
    assert "is unfinished, 1 of 9 steps" in refusal(capsys, "eval", str(done))
    (done / "checkpoint.safetensors").unlink()
    assert "is unfinished, 0 of 9 steps" in refusal(capsys, "eval", str(done))
    foreign = write_foreign_run(tmp_path / "foreign")
    assert "give CLIP weights with --clip FOLDER" in refusal(capsys, "eval", str(foreign))
    assert "--texts" in refusal(capsys, "eval", str(foreign), "--texts", "x.txt")


def test_a_prompt_that_clip_compares_with_nothing_is_refused_before_any_render(
    tmp_path, capsys, monkeypatch
):
    foreign = write_foreign_run(tmp_path / "foreign")
    monkeypatch.setattr(
        "limbeck.evaluation.judge.evaluate_run", lambda *arguments: pytest.fail("it renders")
    )
    argv = ["eval", str(foreign), "--clip", str(write_clip(tmp_path / "clip")), "--device", "cpu"]
    assert "needs other texts" in refusal(capsys, *argv)
    assert not (foreign / "eval.json").exists()


def test_clip_evaluates_a_foreign_run_by_the_same_command(tmp_path, capsys):
    foreign = write_foreign_run(tmp_path / "foreign")
    texts = tmp_path / "texts"
    texts.write_text("a red car\n\n# a comment\na cone\nA red disc.\n")
    argv = ["eval", str(foreign), "--clip", str(write_clip(tmp_path / "clip"))]
    assert main([*argv, "--texts", str(texts), "--device", "cpu"]) == 0
    row = json.loads((foreign / "eval.json").read_text())["prompts"][0]
    metrics = {"clip_score", "clip_texts", "clip", "clip_shape"}
    assert set(row) == metrics | {"prompt", "particles"} and set(row["particles"][0]) == metrics
    assert row["clip_texts"] == 3  # with the prompt itself, which the file has in other letters


def test_of_a_single_prompt_the_particles_are_the_unit_of_clip_too(tmp_path, capsys):
    run = write_run(
        tmp_path / "run", Ball(), model="gaussians", prompts=("a red disc",), particles=3
    )
    argv = ["eval", str(run), "--clip", str(write_clip(tmp_path / "clip")), "--device", "cpu"]
    texts = tmp_path / "texts.txt"
    texts.write_text("a red car\na cone\n")
    assert main([*argv, "--texts", str(texts)]) == 0
    assert "; 95 % intervals over 3 particles of 1 prompt" in capsys.readouterr().out
    report = json.loads((run / "eval.json").read_text())
    assert report["judges"] == {"clip": str(tmp_path / "clip")}
    (row,) = report["prompts"]
    scores = [particle["clip_score"] for particle in row["particles"]]
    assert len(set(scores)) == 3 and row["clip_score"] == pytest.approx(sum(scores) / 3)
    expected = mean_interval(scores, (-1, 1))
    assert report["intervals"]["clip_score"] == pytest.approx(expected)
    assert "clip_texts" not in report["intervals"]
    assert report["interval_over"] == "3 particles of 1 prompt"


def test_preferences_judge_a_run_at_30_degrees(tmp_path, capsys):
    foreign = write_foreign_run(tmp_path / "foreign")
    reward = write_image_reward(tmp_path / "reward")
    clip = write_clip(tmp_path / "clip")
    argv = ["eval", str(foreign), "--image-reward", str(reward), "--hps", str(clip)]
    assert main([*argv, "--device", "cpu"]) == 0
    assert "HPSv2 " in (line := capsys.readouterr().out) and "ImageReward " in line
    row = json.loads((foreign / "eval.json").read_text())["prompts"][0]
    run = open_finished_run(foreign)
    prior = load("gaussians", "cpu")
    representation, _ = load_representation(run.folder, prior)
    views = render_held_out(representation, prior, 0, run.cameras).images[:16]
    for model in (ImageReward(reward), HPS(clip)):
        expected = model.score(views, ["a red disc"] * 16).mean().item()
        assert row[model.metric] == pytest.approx(expected, abs=1e-4)


def test_a_score_of_ones_own_judges_a_run_at_30_degrees(tmp_path, capsys):
    run = write_foreign_run(tmp_path / "run")
    path = Path(__file__).parents[2] / "examples" / "own_score.py"
    assert main(["eval", str(run), "--score", str(path), "--device", "cpu"]) == 0
    assert "contrast 0." in capsys.readouterr().out
    (row,) = json.loads((run / "eval.json").read_text())["prompts"]
    opened = open_finished_run(run)
    prior = load("gaussians", "cpu")
    views = render_held_out(load_representation(run, prior)[0], prior, 0, opened.cameras).images
    expected = views[:16].mean(1).flatten(1).std(1, correction=0).mean().item()
    assert row["contrast"] == pytest.approx(expected, rel=1e-5)
    assert ">contrast<" in (run / "report.html").read_text()


def test_the_judge_of_a_sweep_writes_what_the_command_does(tmp_path, capsys):
    run, texts = write_foreign_run(tmp_path / "run"), tmp_path / "texts.txt"
    texts.write_text("a red car\na cone\n")
    own = str(Path(__file__).parents[2] / "examples" / "own_score.py")
    options = JudgeOptions(clip=str(write_clip(tmp_path / "clip")), texts=texts, score=(own,))
    judge = RunJudge(
        texts=options.read_texts(),
        clip=options.load_clip("cpu"),
        scores=options.load_scores("cpu"),
        names=options.names(),
        device="cpu",
    )
    judge(run)
    path = run / "eval.json"
    report, written = json.loads(path.read_text()), path.stat().st_mtime_ns
    judge(run)
    assert path.stat().st_mtime_ns == written  # not judged again
    assert {"contrast", "clip"} <= {*report["mean"]}
    argv = ["eval", str(run), "--clip", str(options.clip), "--texts", str(texts), "--score", own]
    assert main([*argv, "--device", "cpu"]) == 0
    assert json.loads(path.read_text()) == report
