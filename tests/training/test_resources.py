"""What a run takes: said before, counted on the way, written beside the steps, and none of it changes a result."""

import errno
import io
import json
import threading
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from run_folders import assert_same_run, experiment, metrics_lines, record_run
from safetensors.torch import save_file
from torch import nn

import limbeck.runs.recorder as recording
import limbeck.training.resources as planning
from limbeck.cli.main import main
from limbeck.diffusion.model_options import RuntimeOptions
from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.distillation.critics.small_unet import SmallUNetCritic
from limbeck.distillation.gradient_transforms import Clip, NoTransform, Normalize
from limbeck.methods.base import LatentAndImageGradient
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import colored_shapes
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.pixels import Pixels
from limbeck.runs import images as pictures
from limbeck.runs.metrics_log import read_metrics
from limbeck.runs.recorder import record
from limbeck.system import checkpoint
from limbeck.system.background_writer import BackgroundWriter
from limbeck.system.checkpoint import read_checkpoint, read_metadata
from limbeck.system.finite import FiniteMonitor, NonFiniteError, check_finite
from limbeck.system.flops import OpCounter, format_si
from limbeck.system.optimizer_state import load_optimizer, optimizer_tensors
from limbeck.training.experiment import Experiment
from limbeck.training.profile import Profile
from limbeck.training.resources import _parameter_counts, check_weights_fit, plan_resources, rehearse, trace_step
from limbeck.training.trainer import Run

# The writer


def test_jobs_are_done_in_order_and_only_so_many_wait():
    writer, gate, done = BackgroundWriter(2), threading.Event(), []
    writer.submit(gate.wait)
    while not writer._jobs.empty():
        time.sleep(0.001)
    for i in range(2):
        writer.submit(lambda i=i: done.append(i))
    more = threading.Thread(target=lambda: writer.submit(lambda: done.append(2)))
    more.start()
    more.join(0.1)
    assert more.is_alive() and writer._jobs.qsize() == 2 and done == []
    gate.set()
    more.join(5)
    writer.drain()
    assert done == [0, 1, 2] and writer.blocked_seconds > 0.05
    writer.close()
    writer.close()
    assert not writer._thread.is_alive()


def test_the_first_error_ends_the_jobs_and_is_told_to_whoever_comes_next():
    writer, done = BackgroundWriter(), []
    failed = writer.submit(
        lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        writer.wait(failed)
    with pytest.raises(OSError, match="No space left"):
        writer.submit(lambda: done.append(1))
    with pytest.raises(OSError, match="No space left"):
        writer.drain()
    writer.close()
    assert done == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    record_run(experiment(), folder, image_every=4)
    return folder


def test_a_slow_disk_changes_no_result_and_figures_are_never_behind_a_checkpoint(
    finished, tmp_path, monkeypatch
):
    write, seen, most = checkpoint.write_cpu_tensors, [], []

    def slow(path, own, note):
        time.sleep(0.02)
        seen.append((note["step"], read_metrics(path.with_name("metrics.jsonl"))[-1]["step"]))
        write(path, own, note)

    save = pictures.save_png
    advance = Run.advance
    monkeypatch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "write_snapshot", slow)
    monkeypatch.setattr(pictures, "save_picture", lambda *a: (time.sleep(0.01), save(*a)))
    monkeypatch.setattr(
        Run, "advance", lambda run: (most.append(len(threading.enumerate())), advance(run))[1]
    )
    record_run(experiment(), tmp_path / "slow", image_every=4)
    assert_same_run(finished, tmp_path / "slow")
    assert [step for step, _ in seen] == [*range(1, 13), 12] and all(
        line >= step for step, line in seen
    )
    assert (
        json.loads((tmp_path / "slow" / "profile.json").read_text())["background"]["blocked"] > 0.05
    )
    assert not [t for t in threading.enumerate() if t.name == "limbeck writer"]


def test_a_disk_that_fills_up_is_one_line_and_the_checkpoint_before_stays(
    tmp_path, monkeypatch, capsys
):
    write, folder = checkpoint.write_cpu_tensors, tmp_path / "run"

    def full(path, own, note):
        if note["step"] > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, own, note)

    monkeypatch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_snapshot", full)
        argv = [
            "run",
            "red disc",
            "--model",
            "gaussians",
            "--steps",
            "12",
            "--every",
            "12",
            "--out",
            str(folder),
        ]
        assert main(argv) == 2
    said = capsys.readouterr().err.splitlines()
    assert (
        said[-1].startswith("limbeck: the disk is full")
        and "goes on from the last checkpoint" in said[-1]
    )
    assert read_metadata(folder / "checkpoint.safetensors")["step"] == 4
    assert main(argv) == 0 and metrics_lines(folder)[-1]["step"] == 12


def test_an_error_of_figures_lets_no_checkpoint_past(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(
        recording.MetricsLog,
        "_write",
        lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")),
    )
    with pytest.raises(OSError, match="full"):
        record_run(experiment(), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


# What is not finite


def lazily(run):
    """The run as it would be on CUDA: nothing asked at a step, the optimiser fused."""
    run.watch = FiniteMonitor(lazy=True)
    groups = [
        group | {"params": list(group["params"])} for group in run.representation.param_groups()
    ]
    run.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
    return run


def spoiled(monkeypatch, at):
    call = SDS.__call__
    monkeypatch.setattr(
        SDS,
        "__call__",
        lambda self, p, s, st: call(self, p, s, st) * (float("nan") if s.step == at else 1),
    )


def test_where_asking_waits_the_particles_stand_still_from_the_first_bad_step_on(monkeypatch):
    spoiled(monkeypatch, 3)
    run, asked = lazily(Run(experiment(), colored_shapes(size=12))), []
    for step in range(7):
        before = {k: v.clone() for k, v in run.tensors().items()}
        said = run.advance()
        moved = [
            k
            for k, v in run.tensors().items()
            if k.startswith("representation.") and not torch.equal(v, before[k])
        ]
        assert bool(moved) == (step < 3)
        if step == 3:
            bad = said
        if step < 3:
            run.monitor.raise_if_bad()
    check_finite(run.tensors(), run.step)
    with pytest.raises(
        NonFiniteError, match="step 3: the direction the method answered is not finite"
    ) as error:
        run.monitor.raise_if_bad()
    assert (
        torch.equal(error.value.inputs["eps"], bad.inputs.eps)
        and error.value.inputs["gradient"].isnan().any()
    )
    assert asked == []


def test_a_run_that_asks_late_keeps_nothing_bad_and_leaves_the_inputs(tmp_path, monkeypatch):
    spoiled(monkeypatch, 5)
    make = recording.Run
    monkeypatch.setattr(recording, "Run", lambda *a: lazily(make(*a)))
    monkeypatch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(NonFiniteError, match="step 5: the direction"):
        record_run(experiment(), tmp_path / "run")
    tensors, note = read_checkpoint(tmp_path / "run" / "failure.safetensors")
    assert note["step"] == 5 and tensors["gradient"].isnan().any()
    kept, note = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    # the writer may hear of the bad step while the checkpoint before it waits
    assert note["step"] in (4, 5) and all(bool(v.isfinite().all()) for v in kept.values())


def test_figures_alone_stop_a_run_that_asks_late(tmp_path, monkeypatch):
    spoiled(monkeypatch, 2)
    make = recording.Run
    monkeypatch.setattr(recording, "Run", lambda *a: lazily(make(*a)))
    monkeypatch.setattr(recording, "FLUSH_SECONDS", 0.0)
    with pytest.raises(NonFiniteError, match="step 2: the direction"):
        record_run(experiment(steps=300), tmp_path / "run", image_every=300)
    assert len(metrics_lines(tmp_path / "run")) < 200


def test_a_critic_that_is_not_finite_is_never_kept(tmp_path, monkeypatch):
    fit = VSD.fit

    def broken(self, prior, sample, state):
        out = fit(self, prior, sample, state)
        if sample.step == 2:
            with torch.no_grad():
                next(iter(state.tensors().values())).fill_(torch.inf)
        return out

    monkeypatch.setattr(VSD, "fit", broken)
    monkeypatch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(NonFiniteError, match=r"step 3: state.* after this step is not finite"):
        record_run(experiment(method=VSD(7.5, critic=SmallUNetCritic(width=8))), tmp_path / "run")
    assert read_metadata(tmp_path / "run" / "checkpoint.safetensors")["step"] == 2


def test_a_fused_optimiser_goes_on_bit_by_bit():
    def two(steps, taken=None):
        p = nn.Parameter(torch.arange(4.0))
        adam = torch.optim.Adam([p], lr=0.1, fused=True)
        if taken is not None:
            p.data.copy_(taken[0])
            load_optimizer(adam, taken[1])
        for _ in range(steps):
            p.grad = p.detach().cos()
            adam.step()
        return p.detach().clone(), {k: v.clone() for k, v in optimizer_tensors(adam).items()}

    assert torch.equal(two(2, two(3))[0], two(5)[0])


# What a step takes


@pytest.fixture(scope="module")
def tiny(eps_folder):
    """For runs without adapters."""
    return StableDiffusion(str(eps_folder))


def test_operations_and_bytes_of_a_network_are_those_counted_by_hand():
    conv, linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16, 10)
    x, q = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 7, 6, requires_grad=True)
    with OpCounter() as tally:
        with tally.part("forward"):
            y = linear(conv(x).flatten(1))
        with tally.part("backward"):
            y.sum().backward()
        with tally.part("attention"):
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
        with tally.part("nothing"):
            x + 1
    one = 2 * 2 * 8 * 16 * 3 * 9, 2 * 2 * 128 * 10
    assert tally.flops["forward"] == sum(one)
    assert tally.flops["backward"] == one[0] + 2 * one[1]  # x takes no gradient
    assert tally.flops["attention"] == 2 * 2 * 2 * 5 * 7 * 7 * 6
    assert "nothing" not in tally.flops
    # the convolution's answer and the linear layer's, both kept: 2 x 8 x 16 and 2 x 10 numbers
    assert tally.bytes["forward"] == 4 * (256 + 20)


def test_bytes_are_those_held_at_once_and_views_hold_none():
    x = torch.zeros(1000)
    with OpCounter() as tally:
        with tally.part("one after the other"):
            for _ in range(5):
                x + 1
        with tally.part("together"):
            kept = [x + 1 for _ in range(5)]
        with tally.part("views"):
            x.view(10, 100).t()[3:]
        del kept
        with tally.part("after"):
            x.mul_(2)
    assert [tally.bytes[k] for k in ("one after the other", "together", "views", "after")] == [
        4000,
        20000,
        20000,
        0,
    ]


@pytest.mark.parametrize("method", [SDS(7.5), VSD(7.5, critic=LoRACritic(2))], ids=["sds", "vsd"])
def test_counting_changes_nothing_and_says_the_same_at_every_step(method, eps_folder):
    e = Experiment(("a red mug",), method=method, representation=Pixels(), particles=2, steps=3)
    plain, counted = (Run(e, StableDiffusion(str(eps_folder))) for _ in range(2))
    found = []
    for _ in range(3):
        plain.advance()
        with counted.profile.count_ops():
            counted.advance()
        found.append(dict(counted.profile.flops))
    a, b = plain.tensors(), counted.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert plain.prior.call_counter == counted.prior.call_counter
    assert found[0] == found[1] == found[2]
    assert found[0]["encode"] > 0 and found[0]["backward"] >= found[0]["encode"]
    assert ("critic" in found[0]) == isinstance(method, VSD)
    assert not counted.profile.seconds and plain.profile.seconds["method"] > 0


def test_a_run_counts_one_step_and_says_so(finished):
    cost = json.loads((finished / "profile.json").read_text())
    assert (
        set(cost["bytes"]) >= {"method", "backward", "images"}
        and cost["bytes"]["method"] > 8 * 12 * 12 * 3 * 4
    )
    page = (finished / "report.html").read_text()
    assert (
        "memory is the most that was held during a part" in page
        and "written beside the steps" in page
    )


def test_what_was_counted_survives_a_pause(tmp_path, monkeypatch, tiny):
    e = Experiment(("a red mug",), method=SDS(7.5), particles=1, steps=5)
    prior, quiet = tiny, Console(file=io.StringIO(), width=200)
    advance = Run.advance
    with monkeypatch.context() as patch:
        patch.setattr(recording, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(
            Run,
            "advance",
            lambda run: advance(run) if run.step < 3 else (_ for _ in ()).throw(KeyError),
        )
        with pytest.raises(KeyError):
            record(e, prior, tmp_path / "run", console=quiet)
    noted = read_metadata(tmp_path / "run" / "checkpoint.safetensors")["flops"]
    record(e, prior, tmp_path / "run", console=quiet)
    told = json.loads((tmp_path / "run" / "profile.json").read_text())["flops"]
    assert told["method"] == 5 * noted["method"] > 0 and told["images"] == 5 * noted["images"]


def test_counts_in_words():
    assert [format_si(v, "B") for v in (7, 999, 13_579_648, 3.32e9, 5e18)] == [
        "7 B",
        "999 B",
        "13.6 MB",
        "3.32 GB",
        "5,000 PB",
    ]


# Before a run


CRITICS = (VSD(7.5, critic=LoRACritic(2)), VSD(7.5, critic=SmallUNetCritic(width=8)))


@pytest.mark.parametrize(
    "method", [SDS(7.5), SDS(1.0), *CRITICS], ids=["sds", "one", "lowrank", "unet"]
)
def test_the_plan_of_a_row_is_near_what_a_step_takes_and_changes_nothing(method, eps_folder, tiny):
    e = Experiment(("a red mug",), method=method, representation=Pixels(), particles=2, steps=3)
    run, other = (
        Run(e, StableDiffusion(str(eps_folder)) if isinstance(method, VSD) else tiny)
        for _ in range(2)
    )
    before = replace(run.prior.call_counter)
    plan = plan_resources(run, thorough=True)
    assert run.prior.call_counter == before and all(
        p.grad is None for p in run.representation.parameters()
    )
    with run.profile.count_ops():
        run.advance()
    other.advance()
    assert all(torch.equal(v, other.tensors()[k]) for k, v in run.tensors().items())
    assert 0.5 < plan.step / max(run.profile.bytes.values()) < 2
    assert 0.7 < plan.flops / sum(run.profile.flops.values()) < 1.5
    assert plan.weights == 4 * sum(
        p.numel() for m in (run.prior.network, run.prior.vae) for p in m.parameters()
    )
    assert plan.allocated < plan.total


def test_small_runs_are_not_tried_out(tiny):
    run = Run(Experiment(("a red mug",), particles=2), tiny)
    before = run.prior.call_counter.calls
    assert plan_resources(run).step is None and run.prior.call_counter.calls == before


def test_a_run_that_cannot_fit_is_refused_in_one_line_before_there_is_a_folder(
    tmp_path, monkeypatch, capsys, eps_folder
):
    argv = [
        "run",
        "a red mug",
        "--model",
        str(eps_folder),
        "--steps",
        "4",
        "--out",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr(planning, "free_bytes", lambda device: 100_000)
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "GB more and 0.0001 GB are free (weights alone" in said
        and "--precision bfloat16" in said
    )
    monkeypatch.setattr(planning, "refuse_weights", lambda *_: None)
    assert main([*argv, "--particles", "9"]) == 2
    said = capsys.readouterr().err
    assert (
        "GB more and 0.0001 GB are free (weights" in said
        and "a step" in said
        and "--batch-size" in said
    )
    assert main([*argv, "--particles", "9", "--dry"]) == 2 and not list(tmp_path.iterdir())


def test_a_dry_run_says_its_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "red disc", "--model", "gaussians", "--steps", "40", "--dry"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("plan: about ") and "40 steps of" in out and out.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_says_its_plan_once(tmp_path):
    _, said = record_run(experiment(), tmp_path / "run")
    assert said.count("plan: about") == 1 and "12 steps of" in said


def test_weights_are_counted_in_the_files_before_any_is_read(eps_folder):
    from transformers import CLIPTextModel

    prior = StableDiffusion(str(eps_folder))
    text = CLIPTextModel.from_pretrained(eps_folder / "text_encoder")
    numbers = [
        sum(p.numel() for p in module.parameters()) for module in (prior.network, prior.vae, text)
    ]
    assert list(_parameter_counts(str(eps_folder)).values()) == numbers
    assert sum(_parameter_counts("stabilityai/stable-diffusion-xl-base-1.0").values()) > 3e9
    assert sum(_parameter_counts("nobody/knows-this").values()) == 0


def test_the_weights_of_one_file_are_told_apart(tmp_path):
    names = (
        "model.diffusion_model.a",
        "first_stage_model.b",
        "cond_stage_model.c",
        "conditioner.d",
    )
    save_file(
        {name: torch.zeros(10**i) for i, name in enumerate(names)}, tmp_path / "all.safetensors"
    )
    assert _parameter_counts(str(tmp_path / "all.safetensors")) == {
        "network": 1,
        "vae": 10,
        "text": 1100,
    }


def test_parts_that_take_turns_are_never_on_the_device_together(eps_folder, tiny, monkeypatch):
    e = Experiment(
        ("a red mug",),
        model=str(eps_folder),
        representation=Pixels(),
        runtime=RuntimeOptions(cpu_offload=True),
    )
    network, vae = (4 * sum(p.numel() for p in m.parameters()) for m in (tiny.network, tiny.vae))
    away, near = (
        plan_resources(Run(e, tiny)),
        plan_resources(Run(replace(e, runtime=RuntimeOptions()), tiny)),
    )
    assert near.weights == network + vae and away.weights == max(network, vae)
    assert near.allocated - away.allocated == vae  # which waits in the host's memory
    monkeypatch.setattr(
        planning, "free_bytes", lambda device: 4 * max(_parameter_counts(str(eps_folder)).values())
    )
    check_weights_fit(e, "cpu")
    with pytest.raises(ValueError, match="weights alone"):
        check_weights_fit(replace(e, runtime=RuntimeOptions()), "cpu")


@pytest.mark.parametrize(
    "how",
    [
        RuntimeOptions(gradient_checkpointing=True),
        RuntimeOptions(vae_slicing=True, gradient_checkpointing=True),
    ],
    ids=["whole", "sliced"],
)
def test_the_plan_knows_how_the_autoencoder_is_run(how, eps_folder):
    """Within a tenth, where in slices many rows take less than half of so many times one, and without either twice as much."""
    e = Experiment(
        ("a red mug",), method=SDS(1.0), representation=Pixels(), particles=8, steps=3, runtime=how
    )
    run, plain = (
        Run(e, StableDiffusion(str(eps_folder), runtime=how)),
        Run(replace(e, runtime=RuntimeOptions()), StableDiffusion(str(eps_folder))),
    )
    told, other = (trace_step(one).bytes["render and encode"] for one in (run, plain))
    with run.profile.count_ops():
        run.advance()
    found = max(run.profile.bytes[part] for part in ("encode", "backward"))
    assert abs(told / found - 1) < 0.1 and other > 1.5 * found
    one = trace_step(Run(replace(e, particles=1), run.prior)).bytes["render and encode"]
    assert (8 * one > 2 * told) == how.vae_slicing


@pytest.mark.parametrize("steps", [1, 5])
def test_making_graphs_is_told_apart_in_a_rehearsal_and_no_length_of_a_step(
    steps, tiny, monkeypatch
):
    advance, clock = Run.advance, [0.0]

    def slow(
        run,
    ):  # as compiled: graphs at first, and the network as it is where operations are counted
        made = 90.0 if run.step == 0 else 0.0
        run.prior.call_counter.compile_seconds += made
        clock[0] += made + (2.0 if run.step == 1 else 1.0)
        return advance(run)

    monkeypatch.setattr(Run, "advance", slow)
    monkeypatch.setattr("limbeck.system.timing.synchronized_time", lambda device: clock[0])
    monkeypatch.setattr(tiny, "call_counter", NetworkCallCounter())
    plan = rehearse(Run(Experiment(("a red mug",), steps=steps), tiny))
    assert (plan.seconds, plan.compile_seconds) == (1.0, 90.0)
    assert str(plan).endswith(
        f"{steps} steps of 1 s: about {steps} s, and 90 s once to make graphs"
    )


def test_a_rehearsal_of_one_step(tiny):
    run = Run(Experiment(("a red mug",), steps=1), tiny)
    assert "1 steps of" in str(rehearse(run)) and run.step == 1


# The rule of gradients


def test_a_rule_of_gradients_is_of_the_direction_in_the_image_too():
    said = LatentAndImageGradient(torch.full((2, 1, 2, 2), 3.0), torch.full((2, 3, 2, 2), -6.0))
    weight = torch.tensor([1.0, 2.0])
    run = Run(experiment(grad_transform=NoTransform()), colored_shapes(size=12))

    def by(rule):
        run.experiment = experiment(grad_transform=rule)
        return run._weighted_gradient(said, weight)

    x0, image = by(NoTransform())
    assert torch.equal(x0[:, 0, 0, 0], torch.tensor([3.0, 6.0])) and torch.equal(
        image[:, 0, 0, 0], torch.tensor([-6.0, -12.0])
    )
    x0, image = by(Clip(start_value=4.0, end_value=4.0))
    assert torch.equal(x0[:, 0, 0, 0], torch.tensor([3.0, 4.0])) and bool((image == -4).all())
    x0, image = by(Normalize(0.5))
    assert torch.allclose(
        torch.cat([x0.flatten(1), image.flatten(1)], 1).square().mean(1).sqrt(), torch.tensor(0.5)
    )
    assert torch.allclose(image[:, :1], -2 * x0)  # in proportion as they were


def test_seconds_in_which_graphs_were_made_are_a_part_of_their_own():
    meter = NetworkCallCounter()
    cost = Profile("cpu", meter)
    with cost.part("method"):
        time.sleep(0.02)
        meter.compile_seconds += 0.015
    assert cost.seconds["warm-up"] == 0.015 and 0.004 < cost.seconds["method"] < 0.5
    with cost.part("critic"):
        pass
    assert cost.seconds["warm-up"] == 0.015
