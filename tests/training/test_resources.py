"""Memory and time planned before a run, against what the run takes."""

from dataclasses import replace

import pytest
import torch
from run_folders import experiment, record_run
from safetensors.torch import save_file

import limbeck.training.resources as resources_module
from limbeck.cli.main import main
from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.pixels import Pixels
from limbeck.training.experiment import Experiment
from limbeck.training.resources import (
    ResourcePlan,
    _parameter_counts,
    check_weights_fit,
    plan_resources,
    rehearse,
    total_plan,
    trace_step,
)
from limbeck.training.trainer import Run


def count_parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.fixture(scope="module")
def tiny_prior(eps_folder):
    """For runs without adapters."""
    return StableDiffusion(str(eps_folder))


METHODS = {
    "sds": SDS(7.5),
    "sds without guidance": SDS(1.0),
    "vsd lora": VSD(7.5, critic=LoRACritic(2)),
    "vsd small-unet": VSD(7.5, critic=SmallUNetCritic(width=8)),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_plan_of_a_row_is_near_the_cost_of_a_step_and_changes_nothing(
    method, eps_folder, tiny_prior
):
    e = Experiment(("a red mug",), method=method, representation=Pixels(), particles=2, steps=3)
    run, other = (
        Run(e, StableDiffusion(str(eps_folder)) if isinstance(method, VSD) else tiny_prior)
        for _ in range(2)
    )
    calls_before = replace(run.prior.call_counter)
    plan = plan_resources(run, thorough=True)
    assert run.prior.call_counter == calls_before
    assert all(p.grad is None for p in run.representation.parameters())
    with run.profile.count_ops():
        run.advance()
    other.advance()
    assert all(torch.equal(v, other.tensors()[k]) for k, v in run.tensors().items())
    assert 0.5 < plan.step / max(run.profile.bytes.values()) < 2
    assert 0.7 < plan.flops / sum(run.profile.flops.values()) < 1.5
    assert plan.weights == 4 * count_parameters(run.prior.network, run.prior.vae)
    assert plan.allocated < plan.total


def test_a_small_run_is_planned_without_a_trial(tiny_prior):
    run = Run(Experiment(("a red mug",), particles=2), tiny_prior)
    calls = run.prior.call_counter.calls
    assert plan_resources(run).step is None and run.prior.call_counter.calls == calls


def test_a_run_that_does_not_fit_is_refused_in_one_line_before_there_is_a_folder(
    tmp_path, monkeypatch, capsys, eps_folder
):
    argv = ["run", "a red mug", "--model", str(eps_folder), "--steps", "4"]
    argv += ["--out", str(tmp_path / "run")]
    monkeypatch.setattr(resources_module, "free_bytes", lambda device: 100_000)
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "--precision bfloat16" in message
    assert "GB more and 0.0001 GB are free (weights alone" in message
    monkeypatch.setattr(resources_module, "check_weights_fit", lambda *_: None)
    argv += ["--particles", "9"]
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert "GB more and 0.0001 GB are free (weights" in message
    assert "a step" in message and "--batch-size" in message
    assert main([*argv, "--dry-run"]) == 2 and not list(tmp_path.iterdir())


def test_a_dry_run_prints_its_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "red disc", "--model", "gaussians", "--steps", "40", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("plan: about ") and "40 steps of" in out and out.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_plans_of_stages_have_a_total():
    plan = ResourcePlan(2 * 10**9, 10**9, 0, 10**9, 0, None, steps=300, seconds=2.0)
    longer = replace(plan, step=2 * 10**9, steps=900, compile_seconds=30.0)
    text = total_plan([plan, longer])
    assert text == "total: 1,200 steps in 2 stages, about 40.5 min and at most 5 GB"


def test_a_run_prints_its_plan_once(tmp_path):
    _, output = record_run(experiment(), tmp_path / "run")
    assert output.count("plan: about") == 1 and "12 steps of" in output


def test_weights_are_counted_in_files_before_any_is_read(eps_folder):
    from transformers import CLIPTextModel

    prior = StableDiffusion(str(eps_folder))
    text_encoder = CLIPTextModel.from_pretrained(eps_folder / "text_encoder")
    expected = [count_parameters(m) for m in (prior.network, prior.vae, text_encoder)]
    assert list(_parameter_counts(str(eps_folder)).values()) == expected
    assert sum(_parameter_counts("stabilityai/stable-diffusion-xl-base-1.0").values()) > 3e9
    assert sum(_parameter_counts("nobody/knows-this").values()) == 0


def test_weights_of_a_single_file_are_counted_by_component(tmp_path):
    heads = ("model.diffusion_model", "first_stage_model", "cond_stage_model", "conditioner")
    path = tmp_path / "all.safetensors"
    save_file({f"{head}.a": torch.zeros(10**i) for i, head in enumerate(heads)}, path)
    assert _parameter_counts(str(path)) == {"network": 1, "vae": 10, "text": 1100}


def test_with_offload_network_and_autoencoder_are_never_on_the_device_together(
    eps_folder, tiny_prior, monkeypatch
):
    model, offload = str(eps_folder), RuntimeOptions(cpu_offload=True)
    e = Experiment(("a red mug",), model=model, representation=Pixels(), runtime=offload)
    resident = replace(e, runtime=RuntimeOptions())
    network, vae = (4 * count_parameters(m) for m in (tiny_prior.network, tiny_prior.vae))
    offloaded_plan, plan = (plan_resources(Run(one, tiny_prior)) for one in (e, resident))
    assert plan.weights == network + vae and offloaded_plan.weights == max(network, vae)
    assert plan.allocated - offloaded_plan.allocated == vae
    largest = 4 * max(_parameter_counts(model).values())
    monkeypatch.setattr(resources_module, "free_bytes", lambda device: largest)
    check_weights_fit(e, "cpu")
    with pytest.raises(ValueError, match="weights alone"):
        check_weights_fit(resident, "cpu")


@pytest.mark.parametrize("vae_slicing", [False, True])
def test_the_plan_follows_slicing_and_checkpointing_of_the_autoencoder(vae_slicing, eps_folder):
    """The plan is within a tenth, and less than two thirds of that without either.

    With slicing, eight rows take less than half of eight times one row.
    """
    runtime = RuntimeOptions(vae_slicing=vae_slicing, gradient_checkpointing=True)
    folder = str(eps_folder)
    e = Experiment(("a red mug",), method=SDS(1.0), representation=Pixels(), particles=8, steps=3)
    run = Run(replace(e, runtime=runtime), StableDiffusion(folder, runtime=runtime))
    planned = trace_step(run).bytes["render and encode"]
    planned_plain = trace_step(Run(e, StableDiffusion(folder))).bytes["render and encode"]
    with run.profile.count_ops():
        run.advance()
    taken = max(run.profile.bytes[part] for part in ("encode", "backward"))
    assert abs(planned / taken - 1) < 0.1 and planned_plain > 1.5 * taken
    single = Run(replace(run.experiment, particles=1), run.prior)
    one_row = trace_step(single).bytes["render and encode"]
    assert (8 * one_row > 2 * planned) == vae_slicing


@pytest.mark.parametrize("steps", [1, 5])
def test_compilation_is_not_part_of_the_planned_time_of_a_step(steps, tiny_prior, monkeypatch):
    advance, clock = Run.advance, [0.0]

    def advance_clock(run):
        """Compile at the first step; the second, where operations are counted, is not compiled."""
        compilation = 90.0 if run.step == 0 else 0.0
        run.prior.call_counter.compile_seconds += compilation
        clock[0] += compilation + (2.0 if run.step == 1 else 1.0)
        return advance(run)

    monkeypatch.setattr(Run, "advance", advance_clock)
    monkeypatch.setattr("limbeck.system.timing.synchronized_time", lambda device: clock[0])
    monkeypatch.setattr(tiny_prior, "call_counter", NetworkCallCounter())
    plan = rehearse(Run(Experiment(("a red mug",), steps=steps), tiny_prior))
    assert (plan.seconds, plan.compile_seconds) == (1.0, 90.0)
    expected = f"{steps} steps of 1 s: about {steps} s, and 90 s once for compilation"
    assert str(plan).endswith(expected)


def test_a_rehearsal_of_one_step(tiny_prior):
    run = Run(Experiment(("a red mug",), steps=1), tiny_prior)
    assert "1 steps of" in str(rehearse(run)) and run.step == 1
