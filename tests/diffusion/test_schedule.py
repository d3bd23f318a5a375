"""Noise schedules: parity with diffusers, inverses and sampling times."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipeline import make_scheduler, max_difference, normal, zero_snr_schedule

from limbeck.diffusion.schedule import (
    CosineSchedule,
    DiscreteSchedule,
    RectifiedFlowSchedule,
    stable_diffusion_schedule,
)
from limbeck.diffusion.tensors import expand

CONTINUOUS = [CosineSchedule(), RectifiedFlowSchedule()]
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def in_float64(scheduler):
    """A scheduler of diffusers with its table in float64, and our schedule with the same table."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    return scheduler, DiscreteSchedule(tuple(scheduler.alphas_cumprod.tolist()))


def test_the_stable_diffusion_table_equals_that_of_diffusers():
    table = torch.tensor(stable_diffusion_schedule().alphas_cumprod, dtype=torch.float64)
    diffusers_table = DDIMScheduler(**SD_BETAS).alphas_cumprod.double()
    # theirs is a product of 1000 float32 factors
    assert ((table - diffusers_table) / table).abs().max() < 2e-5
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert max_difference(table, (1 - betas).cumprod(0)) < 1e-15


@pytest.mark.parametrize("family", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_and_velocity_equal_those_of_diffusers(family, betas):
    scheduler, ours = in_float64(family(beta_schedule=betas))
    timesteps = torch.tensor([0, 1, 20, 499, 980, 999])
    x0, eps, t = normal(6, 3, 4, 4, seed=1), normal(6, 3, 4, 4, seed=2), timesteps.double() / 1000
    assert torch.equal(ours.timestep_index(t), timesteps)
    noisy = scheduler.add_noise(x0, eps, timesteps)
    assert max_difference(ours.add_noise(x0, eps, t), noisy) < 1e-13
    velocity = expand(ours.alpha(t), x0) * eps - expand(ours.sigma(t), x0) * x0
    assert max_difference(velocity, scheduler.get_velocity(x0, eps, timesteps)) < 1e-13


def test_rectified_flow_noise_equals_that_of_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler()
    timesteps = scheduler.timesteps[[0, 10, 500, 990, 999]]
    x0, eps = normal(5, 4, 2, 2, seed=1), normal(5, 4, 2, 2, seed=2)
    noisy = RectifiedFlowSchedule().add_noise(x0, eps, timesteps / 1000)
    # timesteps are float32 in diffusers
    assert max_difference(noisy, scheduler.scale_noise(x0, timesteps, eps)) < 1e-6


def test_a_zero_terminal_snr_schedule_ends_in_pure_noise():
    scheduler, ours = in_float64(make_scheduler("v_prediction"))
    t = torch.ones(2, dtype=torch.float64)
    x0, eps = normal(2, 3), normal(2, 3, seed=1)
    assert scheduler.alphas_cumprod[-1] == 0
    assert torch.equal(ours.add_noise(x0, eps, t), eps)
    assert bool((ours.log_snr(t) == -torch.inf).all())
    last = ours.inverse_log_snr(torch.tensor([-torch.inf]))
    assert torch.equal(last, torch.tensor([0.999], dtype=torch.float64))


@pytest.mark.parametrize(
    "schedule",
    [stable_diffusion_schedule(), zero_snr_schedule(), *CONTINUOUS],
    ids=lambda s: type(s).__name__,
)
def test_alpha_falls_and_sigma_rises(schedule):
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert bool((alpha.diff() <= 0).all()) and bool((sigma.diff() >= 0).all())
    if not isinstance(schedule, RectifiedFlowSchedule):
        assert max_difference(alpha**2 + sigma**2, torch.ones_like(t)) < 1e-14


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=lambda s: type(s).__name__)
@given(value=st.floats(0.001, 0.999))
def test_inverse_log_snr_of_continuous_schedules(schedule, value):
    t = torch.tensor([value], dtype=torch.float64)
    assert max_difference(schedule.inverse_log_snr(schedule.log_snr(t)), t) < 1e-12


@given(timestep=st.integers(0, 999))
def test_inverse_log_snr_at_every_timestep(timestep):
    schedule = stable_diffusion_schedule()
    t = torch.tensor([timestep / 1000], dtype=torch.float64)
    assert torch.equal(schedule.inverse_log_snr(schedule.log_snr(t)), t)
    assert int(schedule.timestep_index(t)) == timestep
    assert int(schedule.timestep_index(t.float())) == timestep


@given(value=st.floats(0, 1))
def test_snap_rounds_to_the_nearest_timestep(value):
    schedule = stable_diffusion_schedule()
    t = torch.tensor([value], dtype=torch.float64)
    nearest = schedule.snap(t)
    assert torch.equal(schedule.snap(nearest), nearest)
    assert torch.equal(schedule.alpha(t), schedule.alpha(nearest))
    assert abs(float(nearest) - value) <= 0.0005 + 1e-12 or float(nearest) == 0.999


@given(steps=st.integers(1, 1000))
def test_sampling_times_are_the_trailing_spacing_of_diffusers(steps):
    scheduler = make_scheduler("epsilon")
    scheduler.set_timesteps(steps)
    schedule = stable_diffusion_schedule()
    ours = schedule.timestep_index(schedule.sampling_times(steps)).tolist()
    assert len(ours) == steps
    for i, (a, b) in enumerate(zip(ours, scheduler.timesteps.tolist(), strict=False)):
        # halfway between two timesteps the rounding error of their float sum decides
        tie = 2 * i * 1000 % (2 * steps) == steps
        assert a == b or (tie and abs(a - b) == 1)
        assert i == 0 or a < ours[i - 1]


@pytest.mark.parametrize("steps", [0, 51])
def test_more_sampling_steps_than_timesteps_are_refused(steps):
    with pytest.raises(ValueError, match=r"1 \.\. 50"):
        zero_snr_schedule().sampling_times(steps)


@pytest.mark.parametrize(
    "table", [(0.5,), (0.5, 0.6), (1.1, 0.5), (0.5, -0.1), (float("nan"), 0.5)]
)
def test_invalid_tables_are_refused(table):
    with pytest.raises(ValueError, match="alphas_cumprod"):
        DiscreteSchedule(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": 0.0}, "shift must be positive, not 0.0"),
        ({"sampling_t_min": 1.0}, r"sampling_t_min must lie in \[0, 1\), not 1.0"),
        ({"sampling_sigma_min": -0.1}, r"sampling_sigma_min must lie in \[0, 1\), not -0.1"),
    ],
)
def test_invalid_rectified_flow_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RectifiedFlowSchedule(**options)
