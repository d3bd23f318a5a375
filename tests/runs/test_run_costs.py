"""Costs of a run over several sessions."""

import pytest

from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.runs import run_costs
from limbeck.runs.run_costs import RunCosts


def test_costs_are_those_of_all_sessions(monkeypatch):
    clock = {"wall": 100.0, "cpu": 10.0}
    monkeypatch.setattr(run_costs.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(run_costs.time, "process_time", lambda: clock["cpu"])
    counter = NetworkCallCounter(rows=7)  # of a run before, with the same prior
    first = RunCosts(counter)
    counter.rows, clock["wall"], clock["cpu"] = 12, 103.0, 11.0
    assert first.state_dict() == {"rows": 5, "elapsed": 3.0, "cpu_seconds": 1.0}
    second = RunCosts(counter)
    second.load_state_dict({"step": 4} | first.state_dict())
    counter.rows, clock["wall"], clock["cpu"] = 20, 104.5, 11.25
    assert (second.rows, second.elapsed, second.cpu_seconds) == (13, 4.5, 1.25)


def test_a_checkpoint_without_processor_time_is_read():
    costs = RunCosts(NetworkCallCounter())
    costs.load_state_dict({"rows": 3, "elapsed": 60.0})
    assert costs.rows == 3 and costs.elapsed >= 60
    assert costs.cpu_seconds == pytest.approx(0, abs=1)
