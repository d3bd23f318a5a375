"""A sweep whose runs succeed, die and fail: each alone, and the same command completes them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mortal_method import files_of, method_file, table_of
from run_folders import assert_same_run

from limbeck.cli.main import main
from limbeck.metrics.bounds import metric_bounds
from limbeck.metrics.estimate import mean_estimate
from limbeck.metrics.intervals import t_quantile
from limbeck.runs.report.live import is_live
from limbeck.sweeps.execution import RunTask, execute_run, stage_texts
from limbeck.system.checkpoint import read_metadata
from limbeck.training.experiment import Experiment

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
TOY = ["red disc", "--model", "gaussians", "--device", "cpu", "--steps", "6"]


def test_six_runs_of_which_one_is_killed_and_one_fails(tmp_path, capsys):
    out, method = tmp_path / "sweep", method_file(tmp_path)
    lrs = [
        "--zip",
        "--lr",
        ".1",
        ".2",
        ".3",
        ".3",
        ".4",
        "3e38",
        "--method.kills",
        "0",
        "0",
        "0",
        "1",
    ]
    command = ["sweep", *TOY, "--method", method, *lrs, "0", "0", "--out", str(out)]
    command += ["--checkpoint-every", "2", "--workers", "2"]
    assert main(command) == 1
    errors = capsys.readouterr().err
    assert "4 of 6 runs finished, 2 failed" in errors
    assert re.search(r"lr-0.3-kills-1-\w+ killed: killed by SIGKILL", errors)
    assert re.search(r"lr-3e.38-kills-0-\w+ stopped: ", errors)
    rows = {row["run"]: row for row in table_of(out)}
    states = {(row["lr"], row["method.kills"]): row["state"] for row in rows.values()}
    assert states.pop(("0.3", "1")) == "killed" and states.pop(("3e+38", "0")) == "stopped"
    assert set(states.values()) == {"finished"} and len(states) == 4
    assert (next(out.glob("lr-3e*")) / "failure.safetensors").is_file()
    killed = next(out.glob("lr-0.3-kills-1-*"))
    # what was written before the third of six steps, and nothing that is written at the end
    assert read_metadata(killed / "checkpoint.safetensors")["step"] == 2
    assert is_live(killed / "report.html")
    assert not {"profile.json", "scores.json", "final"} & {path.name for path in killed.iterdir()}

    before = files_of(out)
    assert main(command) == 1  # one still fails
    assert "5 of 6 runs finished, 1 failed" in capsys.readouterr().err
    after = files_of(out)
    summaries = {out / n for n in ("results.csv", "report.html", "failed-runs.json", "sweep.yaml")}
    changed = {path for path in after if before.get(path) != after[path]} - summaries
    allowed = (killed, out / "logs" / f"{killed.name}.log", out / ".lock")
    assert changed and all(any(p == a or a in p.parents for a in allowed) for p in changed)
    assert all(killed in p.parents and p.suffix == ".part" for p in before.keys() - after.keys())

    # as if it had never been killed; kills is no part of the law of the run
    reference = next(out.glob("lr-0.3-kills-0-*"))
    assert_same_run(killed, reference)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 5 and "Failed runs" in page
    links = re.findall(r'href="([^"#]+)"', page)  # those of plots are within the page
    assert len(links) >= 5 and all((out / link).is_file() for link in links)


def test_a_killed_run_is_retried_from_its_checkpoint(tmp_path, capsys):
    out, method = tmp_path / "sweep", method_file(tmp_path)
    command = ["sweep", *TOY, "--method", method, "--method.kills", "2", "--out", str(out)]
    assert main([*command, "--checkpoint-every", "2", "--retries", "2"]) == 0
    (log,) = (out / "logs").iterdir()
    text = log.read_text(encoding="utf-8")
    assert text.count("report.html while it runs") == 3 and text.count("after step 2 of 6") == 2
    assert "1 of 1 runs finished, 0 failed" in capsys.readouterr().err


def test_one_call_makes_a_run_and_returns_how_it_ended(tmp_path):
    """What Ray or a batch system would call: plain values in, an outcome out."""
    experiment = Experiment(("red disc",), model="gaussians", steps=2)
    task = RunTask("a", stage_texts({tmp_path / "run": experiment}), device="cpu")
    assert execute_run(task).kind == "finished"
    before = files_of(tmp_path)
    assert execute_run(task).kind == "finished" and files_of(tmp_path) == before
    other = Experiment(("red disc",), model="gaussians", steps=2, seed=1)
    refused = execute_run(RunTask("b", stage_texts({tmp_path / "run": other}), device="cpu"))
    assert refused.kind == "refused" and "holds another run: seed: 0 -> 1" in refused.message
    assert not refused.may_retry


def test_the_runs_record_an_image_every_so_many_steps(tmp_path, capsys):
    images = {}
    for number in ("0", "4"):
        out = tmp_path / number
        argv = ["sweep", *TOY, "--image-every", number, "--out", str(out)]
        assert main(argv) == 0
        (run,) = {path.parent for path in out.glob("*/run.yaml")}
        images[number] = sorted(path.stem for path in (run / "images").glob("step-?????.png"))
    assert images["0"] == [f"step-0000{step}" for step in range(7)]
    assert images["4"] == ["step-00000", "step-00004", "step-00006"]  # and the last one


def test_a_sweep_grows_in_its_folder_and_keeps_what_it_has(tmp_path, capsys):
    command = ["sweep", *TOY, "--steps=2", "--out", str(tmp_path / "s"), "--dry-run"]
    command = [word for word in command if word not in ("--steps", "6")]
    assert main([*command[:-1]]) == 0
    (run,) = {p.parent for p in (tmp_path / "s").glob("*/run.yaml")}
    before = files_of(run)
    capsys.readouterr()
    assert main([*command, "--seed", "0:3"]) == 0
    printed = capsys.readouterr()
    names = [Path(line).name for line in printed.out.split()]
    assert names[0] == run.name and len(names) == 3 and files_of(run) == before
    assert "limbeck: 3 runs; nothing was written" in printed.err
    assert main(["sweep", str(tmp_path / "s" / "sweep.yaml")]) == 0  # its file stands for it
    assert capsys.readouterr().out.split()[0] == str(tmp_path / "s" / "results.csv")
    assert files_of(run) == before


def test_a_dry_run_names_the_stages_of_presets(tmp_path, capsys):
    command = ["sweep", "a duck", "--preset", "magic3d", "--seed", "0:2", "--dry-run"]
    assert main([*command, "--out", str(tmp_path / "s")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.endswith(" (coarse, fine)") for line in lines)


def test_two_sweeps_at_once_in_one_folder_are_refused(tmp_path, capsys):
    from limbeck.system.folder_lock import folder_lock

    out = tmp_path / "s"
    with folder_lock(out):
        (out / "sweep.yaml").write_text("steps: 1\n", encoding="utf-8")
        assert main(["sweep", *TOY, "--out", str(out), "--seed", "0:2"]) == 2
    assert "is in use by process" in capsys.readouterr().err


def test_the_interval_over_seeds_is_that_of_student():
    score = mean_estimate([1.0, 2.0, 4.0])
    assert score.value == pytest.approx(7 / 3)
    # sd 1.527525, divided by sqrt(3), times 4.302653, the quantile for 2 degrees of freedom
    half = 4.302653 * 1.5275252 / math.sqrt(3)
    assert score.interval == pytest.approx((7 / 3 - half, 7 / 3 + half), rel=1e-6)
    assert t_quantile(2) == pytest.approx(4.302653, rel=1e-6)
    assert mean_estimate([1.0]).interval is None
    equal = mean_estimate([0.25] * 4, metric_bounds("clipped"))
    assert equal.interval == (0.25, 0.25)  # a measurement, no share of right images
    assert mean_estimate([1.0] * 4, metric_bounds("object")).interval[0] < 0.6


def test_the_interval_over_seeds_covers_the_mean_as_often_as_it_says():
    draws = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)) + 3
    scores = [mean_estimate(row.tolist()) for row in draws]
    covered = sum(score.interval[0] <= 3 <= score.interval[1] for score in scores) / len(scores)
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.slow
def test_ctrl_c_and_a_dead_sweep_leave_checkpoints(tmp_path):
    """Its runs end with the sweep, however it ends, and are completed by the same command."""

    def num_started(folder: Path) -> int:
        return sum(path.stat().st_size > 0 for path in folder.glob("*/metrics.jsonl"))

    toy = ["red disc", "--model", "gaussians", "--device", "cpu", "--steps", "20000"]
    argv = [sys.executable, "-m", "limbeck", "sweep", *toy, "--seed", "0:2", "--workers", "2"]
    for number in (signal.SIGINT, signal.SIGKILL):
        out = tmp_path / str(number)
        sweep = subprocess.Popen([*argv, "--out", str(out)], stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        while num_started(out) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        sweep.send_signal(number)
        sweep.communicate(timeout=60)
        assert sweep.returncode == (130 if number == signal.SIGINT else -9)
        while len(list(out.glob("*/checkpoint.safetensors"))) < 2 and time.monotonic() < end + 60:
            time.sleep(0.1)
        steps = [len(p.read_text().splitlines()) for p in out.glob("*/metrics.jsonl")]
        assert len(steps) == 2 and all(0 < step < 20000 for step in steps)
        assert len(list(out.glob("*/checkpoint.safetensors"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_24_runs_on_two_workers_take_half_the_time_of_single_runs(tmp_path):
    """One is killed, one is set to fail: 22 succeed, and the same command completes the killed."""
    out, method = tmp_path / "sweep", method_file(tmp_path)
    toy = ["red disc", "--model", "gaussians", "--device", "cpu", "--steps", "400"]
    toy += ["--checkpoint-every", "50"]
    single = [sys.executable, "-m", "limbeck"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def seconds(words: list[str], code: int) -> float:
        begin = time.monotonic()
        done = subprocess.run([*single, *words], env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return time.monotonic() - begin

    runs = []
    for i in range(3):
        words = ["run", *toy, "--method", method, "--seed", str(i)]
        runs.append(seconds([*words, "--out", str(tmp_path / f"single-{i}")], 0))
    lrs = [*(f"{0.1 + 0.01 * i:.2f}" for i in range(22)), "0.5", "3e38"]
    words = ["sweep", *toy, "--method", method, "--zip", "--lr", *lrs]
    words += ["--method.kills", *["0"] * 22, "1", "0", "--workers", "2", "--out", str(out)]
    wall = seconds(words, 1)
    states = [row["state"] for row in table_of(out)]
    assert (
        sorted(set(states)) == ["finished", "killed", "stopped"] and states.count("finished") == 22
    )
    total = 24 * sum(runs) / len(runs)
    print(json.dumps({"wall": wall, "single": runs, "ratio": wall / (total / 2)}))
    before = files_of(out)
    seconds(words, 1)
    changed = {path for path, state in files_of(out).items() if before.get(path) != state}
    killed = next(out.glob("lr-0.5-kills-1-*"))
    summaries = {p for p in changed if p.parent == out}
    log = out / "logs" / f"{killed.name}.log"
    assert all(killed in p.parents or p == log for p in changed - summaries)
    assert [row["state"] for row in table_of(out)].count("finished") == 23
    assert wall <= 1.15 * total / 2


TWO_STAGES = """
from dataclasses import dataclass
from limbeck.config.yaml import build
from limbeck.training.experiment import Experiment
from limbeck.training.presets.base import Preset

@dataclass(frozen=True)
class TwoStages(Preset):
    def world(self, prompts):
        options = {"prompts": prompts, "model": "gaussians", "steps": 2}
        splats = {"name": "gaussian-splats", "num_gaussians": 64}
        return {
            "field": build(Experiment, options | {"representation": "nerf"}),
            "splats": build(Experiment, options | {"representation": splats}),
        }
    def full(self, prompts):
        return self.world(prompts)
"""


@pytest.mark.slow
def test_presets_of_several_stages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("stages.py").write_text(TWO_STAGES, encoding="utf-8")
    command = ["sweep", "red disc", "--preset", "stages.py:TwoStages", "--seed", "0:2"]
    assert main([*command, "--out", "s", "--device", "cpu"]) == 0
    for run in Path("s").glob("seed-*"):
        config = (run / "2-splats" / "run.yaml").read_text(encoding="utf-8")
        assert f"init_from: {run.absolute() / '1-field'}" in config
        assert json.loads((run / "best-stage.json").read_text(encoding="utf-8"))
    before = files_of(tmp_path / "s" / run.name)
    capsys.readouterr()
    assert main([*command, "--out", "s", "--device", "cpu"]) == 0
    assert files_of(tmp_path / "s" / run.name) == before
    assert [row["state"] for row in table_of(Path("s"))] == ["finished"] * 2


def test_runs_that_failed_by_a_mistake_in_ones_own_file_begin_anew_with_the_mended_one(tmp_path):
    mine = tmp_path / "mine.py"
    text = (
        "from limbeck.methods.sds import SDS\n\n\nclass Mine(SDS):\n"
        "    def __call__(self, prior, inputs, state):\n"
        "        return super().__call__(prior, inputs, state)\n"
    )
    mine.write_text(text.replace("state)\n", "stat)\n"), encoding="utf-8")
    out = tmp_path / "runs"
    command = ["sweep", "red disc", "--model", "gaussians", "--method", f"{mine}:Mine"]
    command += ["--steps", "2", "--out", str(out), "--workers", "1", "--seed", "0", "1"]
    assert main(command) == 2
    mine.write_text(text, encoding="utf-8")
    assert main(command) == 0
    assert [row["state"] for row in table_of(out)] == ["finished"] * 2
    for path in out.glob("*/environment.json"):
        recorded = json.loads(path.read_text())
        digest = hashlib.sha256(mine.read_bytes()).hexdigest()
        assert recorded["own_files"] == {str(mine): digest} and "continued" not in recorded


def test_one_table_does_not_mix_two_versions_of_ones_own_method(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    text = "from limbeck.methods.sds import SDS\n\n\nclass Mine(SDS):\n    pass\n"
    mine.write_text(text, encoding="utf-8")
    options = ["--model", "gaussians", "--method", f"{mine}:Mine", "--steps", "2"]
    out = tmp_path / "runs"
    command = ["sweep", "red disc", *options, "--out", str(out), "--workers", "1", "--seed"]
    assert main([*command, "0"]) == 0
    mine.write_text(text + "\n# another formula\n", encoding="utf-8")
    assert main([*command, "0", "1"]) == 2
    assert "one table must not mix two versions" in " ".join(capsys.readouterr().err.split())
    assert len(list(out.glob("*/run.yaml"))) == 1
