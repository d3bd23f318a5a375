"""The cost of a render, estimated from a sample of its primitives, against what all cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusals import refused

import limbeck.representations.primitives as primitives_module
import limbeck.system.allocation_guard as guard_module
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.priors.exact import colored_shapes
from limbeck.representations.base import RepresentationConfig
from limbeck.representations.gaussians_2d import Gaussians2D
from limbeck.representations.inpainting import InpaintingParticles
from limbeck.representations.primitives import (
    PrimitiveParticles,
    check_render_cost,
    estimate_render_cost,
)
from limbeck.representations.strokes import Strokes
from limbeck.system.flops import OpCounter
from limbeck.system.notices import collect_notices, display_notices
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run


def built(config: RepresentationConfig, particles: int = 1) -> PrimitiveParticles:
    representation = config.build(colored_shapes(), particles, 0)
    assert isinstance(representation, PrimitiveParticles)
    return representation


@pytest.fixture
def one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sample is taken, however fast it is."""
    monkeypatch.setattr(primitives_module, "_SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(primitives_module, "_FIRST_SAMPLE", 2000)


@pytest.mark.parametrize(
    ("config", "sample"),
    [(Strokes(num_strokes=4000), 1000), (Gaussians2D(num_gaussians=80_000), 20_000)],
)
@pytest.mark.usefixtures("one_sample")
def test_the_memory_of_all_primitives_follows_from_a_sample(
    config: RepresentationConfig, sample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(primitives_module, "_FIRST_SAMPLE", sample)
    particles = built(config)
    particles.size = (64, 64)
    with OpCounter() as counter, counter.part("render"):
        particles.render_at(torch.tensor([0]), *particles.size).sum().backward()
    estimate = estimate_render_cost(particles).bytes
    # hardly too small; more too large, as the lists of tiles are padded to the longest one, which
    # is less with more primitives (over four seeds strokes: 1.08 to 1.15, Gaussians: .98)
    assert 0.95 < estimate / max(counter.bytes.values()) < 1.2
    assert all(p.grad is not None for p in particles.parameters())  # from the render above only


def test_an_estimate_leaves_the_particles_as_they_are() -> None:
    particles = built(Strokes(num_strokes=300), particles=2)
    before = {name: value.clone() for name, value in particles.state_dict().items()}
    estimate_render_cost(particles)
    assert particles.num_primitives == 300
    assert all(torch.equal(value, before[name]) for name, value in particles.state_dict().items())
    assert all(p.grad is None for p in particles.parameters())


def test_slow_renders_give_notice_of_the_time_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cost = primitives_module.RenderCost(seconds=0.75, bytes=1000)
    monkeypatch.setattr(primitives_module, "estimate_render_cost", lambda particles: cost)
    particles = built(Strokes(num_strokes=1000))
    with display_notices(lambda text: None), collect_notices() as fast:
        check_render_cost(particles, 1, 400, "the run")
    with display_notices(lambda text: None), collect_notices() as slow:
        check_render_cost(particles, 4, 400, "the run")
    assert fast == []
    (notice,) = slow
    assert "4 images of 24 x 24 pixels with 1,000 strokes" in notice
    assert "3 s a step" in notice and "400 steps of the run take about 20 min" in notice


def test_the_drawing_of_an_inpainting_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = primitives_module.RenderCost(seconds=3.0, bytes=1000)
    monkeypatch.setattr(primitives_module, "estimate_render_cost", lambda particles: cost)
    particles = built(Strokes(num_strokes=1000))
    painted = InpaintingParticles(particles, torch.ones(1, 1, 24, 24), torch.ones(1, 3, 24, 24))
    with display_notices(lambda text: None), collect_notices() as notices:
        check_render_cost(painted, 1, 400, "the run")
    assert "an image of 24 x 24 pixels with 1,000 strokes" in notices[0]


def test_a_run_counts_all_rows_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where ``NoCamera`` draws each particle several times."""
    cost = primitives_module.RenderCost(seconds=0.25, bytes=1000)
    monkeypatch.setattr(primitives_module, "estimate_render_cost", lambda particles: cost)
    e = Experiment(("red disc",), representation=Strokes(num_strokes=8), particles=2, batch_size=1)
    with display_notices(lambda text: None), collect_notices() as notices:
        Run(replace(e, cameras=NoCamera(16)), colored_shapes())
    assert "16 images of 24 x 24 pixels with 8 strokes" in notices[0]


@pytest.mark.parametrize(
    ("options", "subject"),
    [
        ("strokes --representation.num-strokes 100000", "64 x 64 pixels with 100,000 strokes"),
        ("gaussians-2d --representation.num-gaussians 2000000", "with 2,000,000 Gaussians"),
    ],
)
@pytest.mark.usefixtures("one_sample")
def test_a_render_that_cannot_fit_is_refused_before_the_first_one(
    options: str, subject: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(guard_module, "free_bytes", lambda device: 10**9)
    monkeypatch.chdir(tmp_path)

    def never(*args: object) -> None:
        raise AssertionError("a run was rendered")

    monkeypatch.setattr("limbeck.training.trainer.Run.render", never)
    error = refused(capsys, "run", "a red mug", "--representation", *options.split())
    assert subject in error and "GB more and 1 GB are free" in error
    assert not any(tmp_path.iterdir())
