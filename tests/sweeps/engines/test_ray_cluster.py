"""Runs on a local Ray of two workers: the same bits, and the same reports, as by the pool."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from mortal_method import files_of, method_file, table_of
from run_folders import assert_same_run

from limbeck.cli.main import main
from limbeck.sweeps.engines.ray_cluster import RayCluster

#: Ray starts slowly, and every worker imports torch anew
pytestmark = pytest.mark.timeout(1200)
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install limbeck[ray]"
)
TOY = ["red disc", "--model", "gaussians", "--device", "cpu", "--checkpoint-every", "2"]


def sweep_of(folder, engine):
    """Six runs, of which one kills itself once and one diverges."""
    folder.mkdir(exist_ok=True)
    command = ["sweep", *TOY, "--steps", "6", "--method", method_file(folder), "--zip"]
    command += ["--lr", ".1", ".2", ".3", ".3", ".4", "3e38"]
    command += ["--method.kills", "0", "0", "0", "1", "0", "0"]
    return [*command, "--workers", "2", "--out", str(folder / "sweep"), *engine]


def states_of(folder):
    rows = table_of(folder / "sweep")
    return {(row["lr"], row["method.kills"]): row["state"] for row in rows}


@needs_ray
@pytest.mark.slow
def test_a_local_ray_gives_the_same_bits_and_reports_as_the_pool(tmp_path, capsys):
    pool, ray = tmp_path / "pool", tmp_path / "ray"
    assert main(sweep_of(pool, [])) == 1
    capsys.readouterr()
    assert main(sweep_of(ray, ["--ray", "local"])) == 1
    errors = capsys.readouterr().err
    assert "4 of 6 runs finished, 2 failed" in errors
    assert re.search(r"lr-0.3-kills-1-\w+ killed: killed, perhaps because memory ran out", errors)
    assert re.search(r"lr-3e.38-kills-0-\w+ stopped: ", errors)
    assert states_of(ray) == states_of(pool)
    assert set(states_of(ray).values()) == {"finished", "killed", "stopped"}
    finished = [p.parent for p in (pool / "sweep").glob("*/report.html")]
    names = {re.sub(r"-\w+$", "", p.name) for p in finished if "3e" not in p.name}
    assert len(names) >= 4  # the hash has the path of the method in it
    for name in names - {"lr-0.3-kills-1"}:
        runs = [next((folder / "sweep").glob(f"{name}-*")) for folder in (ray, pool)]
        assert_same_run(*runs)

    before = files_of(ray / "sweep")
    assert main(sweep_of(ray, ["--ray", "local"])) == 1  # completes the killed one only
    assert "5 of 6 runs finished, 1 failed" in capsys.readouterr().err
    after = files_of(ray / "sweep")
    changed = {p for p in after if before.get(p) != after[p] and p.parent != ray / "sweep"}
    assert changed and all("lr-0.3-kills-1" in str(p) for p in changed)
    killed = next((ray / "sweep").glob("lr-0.3-kills-1-*"))
    assert_same_run(killed, next((ray / "sweep").glob("lr-0.3-kills-0-*")))


@needs_ray
@pytest.mark.slow
def test_a_killed_run_is_retried_by_the_sweep_and_not_by_ray(tmp_path, capsys):
    out, method = tmp_path / "sweep", method_file(tmp_path)
    command = ["sweep", *TOY, "--steps", "6", "--method", method, "--method.kills", "2"]
    command += ["--ray", "local", "--workers", "2", "--out", str(out)]
    assert main([*command, "--retries", "1"]) == 1
    assert "(2 attempts)" in capsys.readouterr().err
    assert main(command) == 0
    (log,) = (out / "logs").iterdir()
    text = log.read_text(encoding="utf-8")
    assert text.count("report.html while it runs") == 3 and text.count("after step 2 of 6") == 2


@needs_ray
@pytest.mark.slow
def test_ctrl_c_lets_the_runs_write_a_checkpoint(tmp_path):
    out = tmp_path / "out"
    toy = ["red disc", "--model", "gaussians", "--device", "cpu", "--steps", "20000"]
    argv = [sys.executable, "-m", "limbeck", "sweep", *toy, "--seed", "0:3", "--workers", "2"]
    argv += ["--ray", "local", "--out", str(out)]
    sweep = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 120
    while len(list(out.glob("*/metrics.jsonl"))) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 130 and "To resume: limbeck sweep" in errors
    assert len(list(out.glob("*/checkpoint.safetensors"))) == 2
    assert not (out / "failed-runs.json").exists() and len(table_of(out)) == 3


@needs_ray
@pytest.mark.slow
def test_what_a_local_ray_has_no_room_for_is_refused(tmp_path, capsys):
    command = ["sweep", *TOY, "--ray", "local", "--gpus-per-run", "2", "--out", str(tmp_path / "s")]
    assert main(command) == 2
    assert "1 cores and 2 GPUs" in capsys.readouterr().err


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://head:10001", "nowhere"])
def test_an_address_without_a_cluster_is_refused_at_once(address, tmp_path, capsys):
    out = tmp_path / "s"
    assert main(["sweep", *TOY, "--ray", address, "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert f"--ray {address}" in errors and errors.count("\n") == 1 and not out.exists()


def test_without_ray_one_line_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    out = tmp_path / "s"
    assert main(["sweep", *TOY, "--ray", "local", "--out", str(out)]) == 2
    errors = capsys.readouterr().err
    assert "pip install 'limbeck[ray]'" in errors and errors.count("\n") == 1
    assert not out.exists()


def test_options_of_clusters_are_refused_without_one(capsys, monkeypatch):
    assert main(["sweep", *TOY, "--gpus-per-run", "1"]) == 2
    assert "--gpus-per-run is for clusters: add --ray ADDRESS or --slurm" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="a cluster chooses the GPU"):
        RayCluster("auto", device="cuda:1")
