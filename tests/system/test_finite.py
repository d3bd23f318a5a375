"""Runs with non-finite values: where they stop, and what they save."""

import pytest
import torch
from run_folders import experiment, metrics_lines, record_run

import limbeck.runs.recorder as recorder_module
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.system.checkpoint import read_checkpoint, read_metadata
from limbeck.system.finite import FiniteMonitor, NonFiniteError, check_finite
from limbeck.training.trainer import Run


def defer(run):
    """The run as on CUDA: gradients are not checked at a step, and the optimizer is fused."""
    run.monitor = FiniteMonitor(deferred=True)
    groups = [
        group | {"params": list(group["params"])} for group in run.representation.param_groups()
    ]
    run.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
    return run


def defer_recorded_runs(monkeypatch):
    make = recorder_module.Run
    monkeypatch.setattr(recorder_module, "Run", lambda *args, **kw: defer(make(*args, **kw)))


def make_direction_nan(monkeypatch, step):
    call = SDS.__call__

    def call_with_nan(method, prior, inputs, state):
        factor = float("nan") if inputs.step == step else 1
        return call(method, prior, inputs, state) * factor

    monkeypatch.setattr(SDS, "__call__", call_with_nan)


def test_a_deferred_check_stops_updates_at_the_first_bad_step(monkeypatch):
    make_direction_nan(monkeypatch, 3)
    run = defer(Run(experiment(), colored_shapes(size=12)))
    for step in range(7):
        before = {k: v.clone() for k, v in run.tensors().items()}
        result = run.advance()
        changed = [
            name
            for name, value in run.tensors().items()
            if name.startswith("representation.") and not torch.equal(value, before[name])
        ]
        assert bool(changed) == (step < 3)
        if step == 3:
            bad_step = result
        if step < 3:
            run.monitor.raise_if_bad()
    check_finite(run.tensors(), run.step)
    message = "step 3: the direction the method returned is not finite"
    with pytest.raises(NonFiniteError, match=message) as error:
        run.monitor.raise_if_bad()
    assert torch.equal(error.value.inputs["eps"], bad_step.inputs.eps)
    assert error.value.inputs["gradient"].isnan().any()


def test_a_deferred_run_saves_nothing_bad_and_writes_the_inputs(tmp_path, monkeypatch):
    make_direction_nan(monkeypatch, 5)
    defer_recorded_runs(monkeypatch)
    monkeypatch.setattr(recorder_module, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(NonFiniteError, match="step 5: the direction"):
        record_run(experiment(), tmp_path / "run")
    tensors, metadata = read_checkpoint(tmp_path / "run" / "failure.safetensors")
    assert metadata["step"] == 5 and tensors["gradient"].isnan().any()
    tensors, metadata = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    # the bad step may be noticed while the checkpoint before it is still in the queue
    assert metadata["step"] in (4, 5)
    assert all(bool(value.isfinite().all()) for value in tensors.values())


def test_writing_metrics_stops_a_deferred_run(tmp_path, monkeypatch):
    make_direction_nan(monkeypatch, 2)
    defer_recorded_runs(monkeypatch)
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", 0.0)
    with pytest.raises(NonFiniteError, match="step 2: the direction"):
        record_run(experiment(steps=300), tmp_path / "run", image_every=300)
    assert len(metrics_lines(tmp_path / "run")) < 200


def test_a_non_finite_critic_is_never_saved(tmp_path, monkeypatch):
    fit = VSD.fit

    def fit_and_break(method, prior, inputs, state):
        metrics = fit(method, prior, inputs, state)
        if inputs.step == 2:
            with torch.no_grad():
                next(iter(state.tensors().values())).fill_(torch.inf)
        return metrics

    monkeypatch.setattr(VSD, "fit", fit_and_break)
    monkeypatch.setattr(recorder_module, "CHECKPOINT_SECONDS", 0.0)
    method = VSD(7.5, critic=SmallUNetCritic(width=8))
    with pytest.raises(NonFiniteError, match=r"step 3: state.* after this step is not finite"):
        record_run(experiment(method=method), tmp_path / "run")
    assert read_metadata(tmp_path / "run" / "checkpoint.safetensors")["step"] == 2
