"""Steps with several rows of a particle, such as views: each row is judged by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limbeck.distillation.critics.exact import ExactCritic
from limbeck.distillation.inputs import StepInputs
from limbeck.graphics.cameras.samplers import NoCamera
from limbeck.methods.base import Method, Stateless
from limbeck.methods.repulsive import Repulsive
from limbeck.methods.sdi import SDI
from limbeck.methods.sds import SDS
from limbeck.methods.svgd import SVGD
from limbeck.methods.vsd import VSD
from limbeck.priors.exact import GaussianMixture, colored_shapes
from limbeck.representations.generator import Generator
from limbeck.representations.nerf import NeRF
from limbeck.training.experiment import Experiment
from limbeck.training.trainer import Run

VIEWS = 3


def plane() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 1.0]]), torch.tensor([0.3, 0.3]))


def run_of(method: Method, particles: int = 1) -> tuple[Run, StepInputs]:
    """A run, and inputs of a step in which every row has another x0, as views have."""
    experiment = Experiment(
        ("all",), method=method, particles=particles, cameras=NoCamera(VIEWS), steps=5
    )
    run = Run(experiment, plane())
    inputs = run.advance().inputs
    x0 = torch.randn(inputs.x0.shape, generator=torch.Generator().manual_seed(1))
    return run, replace(inputs, x0=x0.to(inputs.x0), step=inputs.step + 1)


def sds_of(run: Run, inputs: StepInputs) -> torch.Tensor:
    return SDS(2.0)(run.prior, inputs, Stateless())


def test_sdi_predicts_each_view():
    method = SDI(2.0, inversion_eta=0.0)
    run, inputs = run_of(method, particles=2)
    together = method(run.prior, inputs, run.state)
    assert len(inputs.particle) == 2 * VIEWS
    for row in range(2 * VIEWS):
        other, _ = run_of(method, particles=2)
        one = inputs.select(torch.tensor([row]))
        alone = method(run.prior, one, other.state)
        assert float((together[row] - alone[0]).abs().max()) < 1e-5


def test_vsd_with_the_exact_critic_of_one_particle_is_sds_in_every_view():
    method = VSD(2.0, critic=ExactCritic())
    run, inputs = run_of(method)
    vsd = method(run.prior, inputs, run.state)
    sds = sds_of(run, inputs)
    assert float((vsd - sds).abs().max()) < 1e-5
    assert len({float(row.sum()) for row in sds}) == VIEWS


@pytest.mark.parametrize("method", [SVGD(2.0), Repulsive(2.0)])
def test_views_of_one_particle_do_not_interact(method):
    run, inputs = run_of(method)
    whole = method(run.prior, inputs, run.state)
    assert float((whole - sds_of(run, inputs)).abs().max()) < 1e-5


@pytest.mark.parametrize("method", [SVGD(2.0), Repulsive(2.0)])
def test_particles_interact_with_views_of_the_same_number(method):
    run, inputs = run_of(method, particles=2)
    whole = method(run.prior, inputs, run.state)
    first = torch.tensor([inputs.particle.tolist().index(i) for i in (0, 1)])
    pair = method(run.prior, inputs.select(first), run.state)
    assert float((whole[first] - pair).abs().max()) < 1e-5
    assert float((whole - sds_of(run, inputs)).abs().max()) > 1e-3


def test_the_exact_critic_of_a_generator_knows_all_samples_of_the_step():
    """Also where more are drawn than there are particles to show."""
    experiment = Experiment(
        ("red disc",),
        method=VSD(1.0, critic=ExactCritic()),
        representation=Generator(critic_warmup=0),
        batch_size=6,
        particles=1,
        steps=2,
    )
    run = Run(experiment, colored_shapes(4))
    inputs = run.advance().inputs
    x0 = inputs.x0.detach()
    run.state.observe(inputs)
    # at a small t each sample is its own best candidate
    t = run.prior.schedule.snap(torch.full((6,), 0.02))
    xt = run.prior.schedule.add_noise(x0, torch.zeros_like(x0), t)
    x0_hat = run.state.prior()(xt, t, inputs.conditions.pos)[0].x0
    assert float((x0_hat - x0).abs().max()) < 1e-3
    assert len({float(row.sum()) for row in x0_hat}) == 6


@pytest.mark.parametrize("method", [SDI(kappa="cached"), SDI(refresh_every=2)])
def test_what_is_kept_of_another_camera_is_refused(method):
    with pytest.raises(ValueError, match="predicted for another camera"):
        Run(Experiment(("red disc",), method=method, representation=NeRF()), colored_shapes(8))
