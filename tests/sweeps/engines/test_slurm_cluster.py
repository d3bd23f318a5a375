"""Runs as jobs: the same bits as by the pool, and what is reported of jobs that are killed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from fake_slurm import FakeSlurm
from mortal_method import files_of, method_file, table_of
from run_folders import assert_same_run

from limbeck.cli.main import main
from limbeck.system.notices import display_notices

pytestmark = pytest.mark.timeout(1200)  # every job imports torch anew
needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None,
    reason="submitit is not installed: pip install limbeck[slurm]",
)
TOY = ["red disc", "--model", "gaussians", "--device", "cpu"]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake.path)
    return fake


def sweep_of(folder, engine):
    """Six runs, of which one kills itself once and one diverges."""
    folder.mkdir(exist_ok=True)
    command = ["sweep", *TOY, "--steps", "6", "--checkpoint-every", "2", "--zip"]
    command += ["--lr", ".1", ".2", ".3", ".3", ".4", "3e38", "--method", method_file(folder)]
    command += ["--method.kills", "0", "0", "0", "1", "0", "0"]
    return [*command, "--out", str(folder / "sweep"), *engine]


def states_of(folder):
    rows = table_of(folder / "sweep")
    return {(row["lr"], row["method.kills"]): row["state"] for row in rows}


@needs_submitit
@pytest.mark.slow
@pytest.mark.parametrize("is_local", [False, True], ids=["slurm", "local executor of submitit"])
def test_jobs_give_the_same_bits_and_reports_as_the_pool(
    is_local, tmp_path, slurm, capsys, monkeypatch
):
    import submitit

    class Local(submitit.LocalExecutor):
        def __init__(self, folder):
            super().__init__(folder)
            self.parameters["timeout_min"] = 30  # two by default

    if is_local:
        monkeypatch.setattr(submitit, "SlurmExecutor", Local)
    pool, jobs = tmp_path / "pool", tmp_path / "jobs"
    assert main(sweep_of(pool, ["--workers", "2"])) == 1
    capsys.readouterr()
    assert main(sweep_of(jobs, ["--slurm"])) == 1
    errors = capsys.readouterr().err
    assert "4 of 6 runs finished, 2 failed" in errors and "`squeue --me` lists" in errors
    assert re.search(r"lr-0.3-kills-1-\w+ killed: killed, perhaps because memory ran out", errors)
    assert re.search(r"lr-3e.38-kills-0-\w+ stopped: ", errors)
    assert states_of(jobs) == states_of(pool)
    assert set(states_of(jobs).values()) == {"finished", "killed", "stopped"}
    for lr in ("0.1", "0.2", "0.3", "0.4"):
        runs = [next((folder / "sweep").glob(f"lr-{lr}-kills-0-*")) for folder in (jobs, pool)]
        assert_same_run(*runs)

    before = files_of(jobs / "sweep")
    assert main(sweep_of(jobs, ["--slurm"])) == 1  # completes the killed one only
    assert "5 of 6 runs finished, 1 failed" in capsys.readouterr().err
    after = files_of(jobs / "sweep")
    changed = [p for p in after if before.get(p) != after[p] and p.parent != jobs / "sweep"]
    assert changed and all("lr-0.3-kills-1" in str(p) for p in changed)
    killed = next((jobs / "sweep").glob("lr-0.3-kills-1-*"))
    assert_same_run(killed, next((jobs / "sweep").glob("lr-0.3-kills-0-*")))
    logs = {path.name for path in (jobs / "sweep" / "logs").glob("*.log")}
    assert len(logs) == 6


def start_sweep(out, slurm, *options):
    argv = [sys.executable, "-m", "limbeck", "sweep", *TOY, "--steps", "20000", "--slurm"]
    argv += ["--out", str(out), *options]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_runs(out, number):
    end = time.monotonic() + 240
    while len(list(out.glob("*/metrics.jsonl"))) < number and time.monotonic() < end:
        time.sleep(0.1)


@needs_submitit
@pytest.mark.slow
def test_killed_jobs_are_reported_and_ctrl_c_cancels_the_others(tmp_path, slurm):
    out = tmp_path / "out"
    limits = ["--minutes-per-run", "90", "--partition", "a100", "--cpus-per-run", "2"]
    sweep = start_sweep(out, slurm, "--seed", "0:4", *limits)
    wait_for_runs(out, 4)
    runs = sorted(path.parent.name for path in out.glob("*/metrics.jsonl"))
    warned, late, large, kept = (slurm.job_of(name) for name in runs)
    slurm.send(warned, signal.SIGUSR2)  # as Slurm does shortly before the limit
    slurm.kill(late, "TIMEOUT")
    slurm.kill(large, "OUT_OF_MEMORY")
    end = time.monotonic() + 120
    report = out / "failed-runs.json"
    while not (report.exists() and len(json.loads(report.read_text())) == 3):
        assert time.monotonic() < end
        time.sleep(0.2)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    _, errors = sweep.communicate(timeout=180)
    assert sweep.returncode == 130 and "To resume: limbeck sweep" in errors
    failed = json.loads(report.read_text(encoding="utf-8"))
    kinds = [failed[name]["kind"] for name in runs[:3]]
    assert kinds == ["killed", "killed", "out of memory"]
    messages = [failed[name]["message"] for name in runs[:3]]
    assert "stopped after a checkpoint, shortly before its time limit" in messages[0]
    assert "killed at its time limit" in messages[1] and f"job {late}" in messages[1]
    assert "its memory ran out" in messages[2] and "SBATCH_MEM_PER_NODE" in messages[2]
    for name in (runs[0], runs[3]):
        assert (out / name / "checkpoint.safetensors").exists()
    assert len(list((out / "logs").glob("*.log"))) == 4
    text = slurm.submission(kept)
    for flag in ("time=90", "partition=a100", "cpus-per-task=2", "signal=USR2@90", "no-requeue"):
        assert f"#SBATCH --{flag}\n" in text
    assert "gpus" not in text and "srun" in text and "--cpus-per-task=2 " in text


@needs_submitit
@pytest.mark.slow
def test_jobs_outlive_the_command_and_are_not_made_twice(tmp_path, slurm, capsys):
    out = tmp_path / "out"
    sweep = start_sweep(out, slurm)
    wait_for_runs(out, 1)
    sweep.kill()
    sweep.communicate()
    command = ["sweep", *TOY, "--steps", "20000", "--slurm", "--out", str(out)]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert "is in use by process" in errors and errors.count("\n") == 1
    slurm.send(1, signal.SIGTERM)
    slurm.wait()
    (slurm.jobs / "1.state").write_text("PENDING", encoding="utf-8")
    assert main(command) == 2
    assert "1 runs of this sweep are still in the queue of Slurm" in capsys.readouterr().err
    assert len(list(slurm.jobs.glob("*.sh"))) == 1


@needs_submitit
def test_waiting_jobs_are_counted_and_canceled(tmp_path, slurm, monkeypatch):
    from limbeck.sweeps.engines import slurm_cluster
    from limbeck.sweeps.execution import RunTask

    monkeypatch.setattr(slurm_cluster, "_CHECK_SECONDS", 0.0)
    (slurm.jobs / "hold").touch()
    engine = slurm_cluster.SlurmCluster(device="cpu")
    counts = []

    def stop_later():
        counts.append((engine.num_waiting(), engine.running()))
        if len(counts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.warns(match="squeue --me"):
        list(engine.run([RunTask("a", ()), RunTask("b", ())], tmp_path / "logs", stop_later))
    assert counts[-1] == (2, set())
    states = [path.read_text(encoding="utf-8") for path in slurm.jobs.glob("*.state")]
    assert states == ["CANCELLED by 0"] * 2


@needs_submitit
def test_every_state_of_slurm_has_its_message_and_what_was_canceled_is_not_retried(
    tmp_path, slurm, monkeypatch
):
    from limbeck.sweeps.engines import slurm_cluster
    from limbeck.sweeps.execution import RunTask

    monkeypatch.setattr(slurm_cluster, "_CHECK_SECONDS", 0.0)
    monkeypatch.setattr(slurm_cluster, "POLL_SECONDS", 0.01)
    (slurm.jobs / "hold").touch()
    states = {
        "TIMEOUT": ("killed", "killed at its time limit: give --minutes-per-run, or the same"),
        "PREEMPTED": ("killed", "killed for a job of higher priority"),
        "NODE_FAIL": ("killed", "killed, as its machine failed"),
        "OUT_OF_MEMORY": ("out of memory", "its memory ran out: set SBATCH_MEM_PER_NODE=32G"),
        "CANCELLED by 1000": ("interrupted", "canceled from outside, perhaps by scancel"),
    }
    names = {name.split()[0].lower(): name for name in states}
    engine = slurm_cluster.SlurmCluster(retries=1, device="cpu")

    def end_all():
        for path in slurm.jobs.glob("*.state"):
            (state,) = [s for n, s in names.items() if slurm.job_is(path.stem, n)]
            path.write_text(state, encoding="utf-8")

    tasks = [RunTask(name, ()) for name in names]
    with display_notices(lambda text: None):
        outcomes = list(engine.run(tasks, tmp_path / "logs", end_all))
    for outcome in outcomes:
        kind, message = states[names[outcome.name]]
        is_retried = kind != "interrupted"
        assert outcome.kind == kind and message in outcome.message
        assert engine.attempts[outcome.name] == 1 + is_retried
        assert outcome.message.endswith("(2 attempts)") is is_retried
    assert {outcome.name for outcome in outcomes} == names.keys()
    assert len(list(slurm.jobs.glob("*.sh"))) == 9  # five jobs, and four of them once more


@needs_submitit
def test_what_sbatch_refuses_is_said_in_one_line(tmp_path, slurm, capsys):
    (slurm.jobs / "refuses").touch()
    command = ["sweep", *TOY, "--slurm", "--partition", "none", "--out", str(tmp_path / "s")]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert "sbatch refuses the job: sbatch: error: invalid partition specified" in errors
    assert "Traceback" not in errors


def test_without_slurm_one_line_says_so_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "s"
    assert main(["sweep", *TOY, "--slurm", "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert "--slurm needs sbatch, which is not on PATH" in errors and errors.count("\n") == 1
    assert not out.exists()


def test_without_submitit_one_line_names_the_extra(tmp_path, capsys, monkeypatch, slurm):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "s"
    assert main(["sweep", *TOY, "--slurm", "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert "pip install 'limbeck[slurm]'" in errors and errors.count("\n") == 1
    assert not out.exists()


def test_a_cluster_that_keeps_no_account_is_refused(tmp_path, capsys, monkeypatch, slurm):
    text = "#!/bin/sh\necho Slurm accounting storage is disabled >&2\nexit 1\n"
    (slurm.bin / "sacct").write_text(text, encoding="utf-8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    out = tmp_path / "s"
    assert main(["sweep", *TOY, "--slurm", "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert "sacct fails" in errors and "accounting storage is disabled" in errors
    assert errors.count("\n") == 1 and not out.exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--slurm", "--ray", "local"], "--slurm and --ray exclude each other"),
        (["--slurm", "--workers", "2"], "--workers: Slurm decides"),
        (["--slurm", "--gpus-per-run", "0.5"], "--gpus-per-run 0.5: Slurm gives whole GPUs"),
        (["--slurm", "--device", "cuda:1"], "a cluster chooses the GPU"),
        (["--partition", "a100"], "--partition is for Slurm: add --slurm"),
        (["--ray", "local", "--minutes-per-run", "5"], "--minutes-per-run is for Slurm"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, problem, tmp_path, capsys):
    out = tmp_path / "s"
    assert main(["sweep", "red disc", "--model", "gaussians", *options, "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert problem in errors and errors.count("\n") == 1 and not out.exists()
