"""Time and operations by part: counting changes no result, and a resumed run keeps its counts."""

import io
import json
import time

import pytest
import torch
from rich.console import Console
from run_folders import experiment, record_run

import limbeck.runs.recorder as recorder_module
from limbeck.diffusion.prior import NetworkCallCounter
from limbeck.distillation.critics.lora import LoRACritic
from limbeck.methods.sds import SDS
from limbeck.methods.vsd import VSD
from limbeck.priors.stable_diffusion import StableDiffusion
from limbeck.representations.pixels import Pixels
from limbeck.runs.recorder import record
from limbeck.system.checkpoint import read_metadata
from limbeck.training.experiment import Experiment
from limbeck.training.profile import COMPILATION, Profile
from limbeck.training.trainer import Run


@pytest.mark.parametrize("method", [SDS(7.5), VSD(7.5, critic=LoRACritic(2))], ids=["sds", "vsd"])
def test_counting_changes_nothing_and_is_the_same_at_every_step(method, eps_folder):
    e = Experiment(("a red mug",), method=method, representation=Pixels(), particles=2, steps=3)
    plain, counted = (Run(e, StableDiffusion(str(eps_folder))) for _ in range(2))
    flops = []
    for _ in range(3):
        plain.advance()
        with counted.profile.count_ops():
            counted.advance()
        flops.append(dict(counted.profile.flops))
    a, b = plain.tensors(), counted.tensors()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert plain.prior.call_counter == counted.prior.call_counter
    assert flops[0] == flops[1] == flops[2]
    assert flops[0]["encode"] > 0 and flops[0]["backward"] >= flops[0]["encode"]
    assert ("critic" in flops[0]) == isinstance(method, VSD)
    assert not counted.profile.seconds and plain.profile.seconds["method"] > 0


def test_a_run_counts_one_step_and_reports_it(tmp_path):
    record_run(experiment(), tmp_path / "run", image_every=4)
    profile = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert set(profile["bytes"]) >= {"method", "backward", "images"}
    assert profile["bytes"]["method"] > 8 * 12 * 12 * 3 * 4
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Memory is the peak of that part of the step" in page
    assert "were written in the background" in page


def test_counts_survive_an_interruption(tmp_path, monkeypatch, eps_folder):
    e = Experiment(("a red mug",), method=SDS(7.5), particles=1, steps=5)
    prior, folder = StableDiffusion(str(eps_folder)), tmp_path / "run"
    quiet = Console(file=io.StringIO(), width=200)
    advance = Run.advance

    def advance_three_times(run):
        if run.step == 3:
            raise KeyError
        return advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(recorder_module, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(Run, "advance", advance_three_times)
        with pytest.raises(KeyError):
            record(e, prior, folder, console=quiet)
    saved = read_metadata(folder / "checkpoint.safetensors")["flops"]
    record(e, prior, folder, console=quiet)
    flops = json.loads((folder / "profile.json").read_text())["flops"]
    assert flops["method"] == 5 * saved["method"] > 0 and flops["images"] == 5 * saved["images"]


def test_events_do_not_pile_up_where_nobody_reads_the_seconds(monkeypatch):
    class Event:
        alive, finished = 0, False

        def __init__(self, **_):
            Event.alive += 1

        def __del__(self):
            Event.alive -= 1

        def record(self):
            pass

        def query(self):
            return Event.finished

        def elapsed_time(self, end):
            return 1.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    profile = Profile("cuda:0")

    def time_parts(count):
        for _ in range(count):
            with profile.part("render"):
                pass

    time_parts(1500)
    assert Event.alive >= 3000  # the device has finished none of them
    Event.finished = True
    time_parts(3500)
    assert Event.alive <= 2010
    assert profile.seconds == {"render": pytest.approx(5.0)}


def test_compilation_is_a_part_of_its_own():
    counter = NetworkCallCounter()
    profile = Profile("cpu", counter)
    with profile.part("method"):
        time.sleep(0.02)
        counter.compile_seconds += 0.015
    assert profile.seconds[COMPILATION] == 0.015 and 0.004 < profile.seconds["method"] < 0.5
    with profile.part("critic"):
        pass
    assert profile.seconds[COMPILATION] == 0.015
